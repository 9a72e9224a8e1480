"""Every parameter gets a gradient, is in an optimizer and moves; gradients of a step are gone at the next."""

import torch
from torch import Tensor, nn

from athanor.craft.checks.finding import Finding, judged
from athanor.craft.checks.subject import Subject

FAST = True
STEPS = 3  # layers behind weights of zero get gradients from the second or third step on


def check(subject: Subject) -> Finding:
    if finding := of_optimizers(subject):
        return finding
    module = subject.copy()
    first = {name: parameter.detach().clone() for name, parameter in subject.trained(module)}
    alive: set[str] = set()
    for step in range(STEPS):
        subject.step(module, subject.batch, step)
        alive |= {name for name, p in subject.trained(module) if p.grad is not None and bool(p.grad.any())}
    parameters = dict(subject.trained(module))
    if broken := [name for name, parameter in parameters.items() if not parameter.isfinite().all()]:
        advice = "training diverges at once: try a smaller learning rate"
        return Finding("wrong", told(broken, parameters, "are not finite after three steps"), advice)
    silent = [name for name in parameters if name not in alive]
    if silent and (module.automatic_optimization or len(silent) == len(parameters)):
        advice = "look for detach(), no_grad(), layers that are not called, dead units, weights of zero"
        return Finding("wrong", told(silent, parameters, f"have no gradient in {STEPS} steps"), advice)
    still = [name for name, parameter in parameters.items() if torch.equal(parameter, first[name]) and name in alive]
    if still:
        advice = "look at the learning rate of their group, and at what the optimizer was given"
        return Finding("wrong", told(still, parameters, "do not move"), advice)
    if subject.stale_gradients:
        return judged(
            "gradients of a step are there at the next one",
            wrong=module.automatic_optimization,
            suspicious=True,
            advice="zero_grad() is missing, so that gradients add up",
        )
    equal = [name for name, parameter in parameters.items() if has_equal_units(module, name, parameter)]
    if equal:
        advice = "their units are alike and stay so: draw first weights at random (init)"
        return Finding("wrong", told(equal, parameters, "have equal rows"), advice)
    return of_frozen(subject, module, parameters)


def told(names: list[str], among: dict[str, object], what: str) -> str:
    return f"{len(names)} of {len(among)} parameters {what}: {', '.join(names[:3])}"


def of_optimizers(subject: Subject) -> Finding | None:
    held = {id(p) for optimizer in subject.optimizers for group in optimizer.param_groups for p in group["params"]}
    parameters = dict(subject.trained(subject.module))
    if not held or not parameters:
        return Finding("skipped", "nothing is trained by an optimizer")
    missing = [name for name, parameter in parameters.items() if id(parameter) not in held]
    foreign = held - {id(parameter) for parameter in subject.module.parameters()}
    if not missing and not foreign:
        return None
    figure = told(missing, parameters, "are in no optimizer") if missing else f"{len(foreign)} parameters of no module"
    advice = "the optimizer was built before a part was replaced, or lacks a part: build it in configure_optimizers"
    return Finding("wrong" if missing else "suspicious", figure, advice)


def has_equal_units(module: nn.Module, name: str, parameter: Tensor) -> bool:
    owner = module.get_submodule(name.rpartition(".")[0])
    is_layer = isinstance(owner, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)) and name.endswith(".weight")
    return is_layer and len(parameter) > 1 and torch.equal(parameter, parameter[:1].expand_as(parameter))


def of_frozen(subject: Subject, module: nn.Module, parameters: dict[str, nn.Parameter]) -> Finding:
    """Layers that no setting has frozen, and of which nothing is trained all the same. Of a layer some of whose
    parameters are trained, as a norm layer without a gain, the others are meant to be as they are.
    """
    asked = {id(each) for part in getattr(module, "frozen_parts", []) for each in part.modules()}
    frozen = []
    for name, part in module.named_modules():
        own = list(part.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own) and id(part) not in asked:
            frozen.append(name)
    moved = f"all of {len(parameters)} parameters get gradients and move"
    return judged(
        f"{moved}; {len(frozen)} layers are frozen: {', '.join(frozen[:3])}" if frozen else moved,
        suspicious=frozen,
        advice="somebody has set requires_grad to False: if that was not meant, look for a freeze() that is left",
    )
