"""Activations and gradients of each layer neither vanish nor explode with the first weights, and units are alive."""

from collections.abc import Callable

from torch import Tensor, nn

from athanor.craft.checks.finding import DoesNotApplyError, Finding, judged
from athanor.craft.checks.subject import Subject

FAST = True
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
DEAD = (0.5, 0.9)  # share of a layer's units that no example of the batch wakes: suspicious, wrong
LEAST, MOST = 1e-5, 1e4  # of the deviation of a layer's results; a trained network is between them by orders


def check(subject: Subject) -> Finding:
    module = subject.copy()
    if not module.automatic_optimization:
        raise DoesNotApplyError("the module optimizes by hand")
    deviations: dict[str, float] = {}
    gradients: dict[str, float] = {}
    dead: dict[str, float] = {}

    def watch(name: str) -> Callable:
        def keep(part: nn.Module, inputs: object, output: Tensor) -> None:
            if isinstance(part, nn.ReLU):
                dead[name] = (output.detach().transpose(0, 1).flatten(1) <= 0).all(1).float().mean().item()
            else:
                deviations[name] = output.detach().float().std().item()
                if output.requires_grad:
                    output.register_hook(lambda grad: gradients.update({name: grad.float().norm().item()}))

        return keep

    for name, part in module.named_modules():
        if isinstance(part, (*LAYERS, nn.ReLU)):
            part.register_forward_hook(watch(name))
    subject.loss(module, subject.batch).backward()
    if not deviations:
        raise DoesNotApplyError("the module has no linear or convolutional layers")
    return judge(deviations, gradients, dead)


def judge(deviations: dict[str, float], gradients: dict[str, float], dead: dict[str, float]) -> Finding:
    least, most = min(deviations, key=deviations.get), max(deviations, key=deviations.get)
    figure = f"deviations {deviations[least]:.1e} ({least}) to {deviations[most]:.1e} ({most})"
    if dead and (worst := max(dead.values())) > DEAD[0]:
        return judged(
            f"{worst:.0%} of the units of {max(dead, key=dead.get)} are silent for all examples",
            wrong=worst > DEAD[1],
            suspicious=True,
            advice="dead ReLUs: look at biases far below 0, and at the scale of inputs and weights",
        )
    last = list(deviations)[-1]  # which some begin with zeros, on purpose
    if any(value < LEAST for name, value in deviations.items() if name != last) or deviations[most] > MOST:
        return judged(
            figure, suspicious=True, advice="activations vanish or explode: look at init and at the scale of inputs"
        )
    known = [value for value in gradients.values() if value > 0]
    if known and max(known) / min(known) > 1e8:
        return judged(
            f"gradients {min(known):.1e} to {max(known):.1e}",
            suspicious=True,
            advice="gradients vanish or explode on their way: look at init, activation and depth, or add norm layers",
        )
    return Finding("ok", figure)
