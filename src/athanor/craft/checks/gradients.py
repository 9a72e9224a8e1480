"""Every parameter gets a gradient, is in an optimizer and moves; gradients of a step are gone at the next."""

import torch
from torch import Tensor, nn

from athanor.craft.checks.finding import DoesNotApplyError, Finding, judged, wrong
from athanor.craft.checks.subject import LAYERS, Subject

FAST = True
STEPS = 3  # layers behind weights of zero get gradients from the second or third step on

ADVICE = {
    "not finite": "training diverges at once: try a smaller learning rate",
    "without a gradient": "look for detach(), no_grad(), layers that are not called, dead units, weights of zero",
    "not moving": "look at the learning rate of their group, and at what the optimizer was given",
    "with equal rows": "their units are alike and stay so: draw first weights at random (init)",
}


def check(subject: Subject) -> Finding:
    if finding := of_optimizers(subject):
        return finding
    module, alive, subject.stale_gradients = subject.copy(), set[str](), False
    first = {name: parameter.detach().clone() for name, parameter in subject.trained(module)}
    for step in range(STEPS):
        subject.step(module, subject.batch, step)
        alive |= {name for name, p in subject.trained(module) if p.grad is not None and bool(p.grad.any())}
    parameters = dict(subject.trained(module))
    is_known = module.automatic_optimization or not alive  # else it may have set gradients to zero itself
    by_problem: dict[str, list[str]] = {problem: [] for problem in ADVICE}
    for name, parameter in parameters.items():
        is_silent = name not in alive
        by_problem["not finite"] += [name] * (not parameter.isfinite().all())
        by_problem["without a gradient"] += [name] * (is_silent and is_known)
        is_still = torch.equal(parameter, first[name]) and not is_silent
        by_problem["not moving"] += [name] * (is_still and should_move(subject, module, parameter))
        by_problem["with equal rows"] += [name] * has_equal_units(module, name, parameter)
    for problem, names in by_problem.items():
        if names:
            figure = f"{len(names)} of {len(parameters)} parameters {problem}: {', '.join(names[:3])}"
            return wrong(f"{figure}, after {STEPS} steps", ADVICE[problem])
    if subject.stale_gradients:
        advice, is_sure = "zero_grad() is missing, so that gradients add up", module.automatic_optimization
        return judged("gradients of a step are there at the next one", advice, wrong=is_sure, suspicious=True)
    frozen = frozen_layers(module)
    return judged(
        f"all of {len(parameters)} parameters get gradients and move; frozen layers: {', '.join(frozen[:3]) or 'none'}",
        "somebody has set requires_grad to False: if that was not meant, look for a freeze() that is left",
        suspicious=frozen,
    )


def of_optimizers(subject: Subject) -> Finding | None:
    held = {id(p) for optimizer in subject.optimizers for group in optimizer.param_groups for p in group["params"]}
    parameters = dict(subject.trained(subject.module))
    if not held or not parameters:
        raise DoesNotApplyError("nothing is trained by an optimizer")
    missing = [name for name, parameter in parameters.items() if id(parameter) not in held]
    foreign = held - {id(parameter) for parameter in subject.module.parameters()}
    if not missing and not foreign:
        return None
    figure = f"in no optimizer: {', '.join(missing[:3]) or 'none'}; in an optimizer and no module: {len(foreign)}"
    advice = "the optimizer was built before a part was replaced, or lacks one: build it in configure_optimizers"
    return judged(figure, advice, wrong=missing, suspicious=True)


def should_move(subject: Subject, module: nn.Module, parameter: Tensor) -> bool:
    """Whether its rate is 0, or an update is no smaller than its rounding, as that of a bias before batch norm."""
    groups = (group for optimizer in subject.optimizers_of(module) for group in optimizer.param_groups)
    rate = next((float(group["lr"]) for group in groups if any(p is parameter for p in group["params"])), 0.0)
    if not rate or parameter.grad is None:
        return True
    return bool(rate * parameter.grad.abs().max() > torch.finfo(parameter.dtype).eps * parameter.abs().max())


def has_equal_units(module: nn.Module, name: str, parameter: Tensor) -> bool:
    is_layer = isinstance(module.get_submodule(name.rpartition(".")[0]), LAYERS) and name.endswith(".weight")
    return is_layer and len(parameter) > 1 and torch.equal(parameter, parameter[:1].expand_as(parameter))


def frozen_layers(module: nn.Module) -> list[str]:
    """Layers that no setting has frozen, and of which nothing is trained all the same. Of a layer some of whose
    parameters are trained, as a norm layer without a gain, the others are meant to be as they are.
    """
    asked = {id(each) for part in getattr(module, "frozen_parts", []) for each in part.modules()}
    own = {name: (part, list(part.parameters(recurse=False))) for name, part in module.named_modules()}
    return [
        name
        for name, (part, parameters) in own.items()
        if parameters and id(part) not in asked and not any(parameter.requires_grad for parameter in parameters)
    ]
