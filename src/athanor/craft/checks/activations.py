"""Activations and gradients of each layer neither vanish nor explode with the first weights, and units are alive."""

from torch import Tensor, nn

from athanor.craft.checks.finding import DoesNotApplyError, Finding, judged
from athanor.craft.checks.subject import LAYERS, Subject

FAST = True
DEAD = (0.5, 0.9)  # share of a layer's units that no example of the batch wakes: suspicious, wrong
LEAST, MOST = 1e-5, 1e4  # of the deviation of a layer's results
RATIO = 1e8  # of the gradients of two layers; those of a network that trains are within it by orders


def check(subject: Subject) -> Finding:
    module = subject.single_optimizer()
    deviations: dict[str, float] = {}
    gradients: dict[str, float] = {}
    dead = {"none": 0.0}

    def keep(name: str, part: nn.Module, output: Tensor) -> None:
        if isinstance(part, nn.ReLU):
            dead[name] = (output.detach().transpose(0, 1).flatten(1) <= 0).all(1).float().mean().item()
            return
        deviations[name] = output.detach().float().std().item()
        if output.requires_grad:  # nothing before it may be trained
            output.register_hook(lambda grad: gradients.update({name: grad.float().norm().item()}))

    for name, part in module.named_modules():
        if isinstance(part, (*LAYERS, nn.ReLU)):
            part.register_forward_hook(lambda part, _, output, name=name: keep(name, part, output))
    subject.loss(module, subject.batch).backward()
    if not deviations:
        raise DoesNotApplyError("the module has no linear or convolutional layers")
    return judge(deviations, [value for value in gradients.values() if value > 0], dead)


def judge(deviations: dict[str, float], gradients: list[float], dead: dict[str, float]) -> Finding:
    worst = max(dead, key=dead.get)
    if dead[worst] > DEAD[0]:
        advice = "dead ReLUs: look at biases far below 0, and at the scale of inputs and weights"
        figure = f"{dead[worst]:.0%} of the units of {worst} are silent for all examples"
        return judged(figure, advice, wrong=dead[worst] > DEAD[1], suspicious=True)
    least, most = min(deviations, key=deviations.get), max(deviations, key=deviations.get)
    ratio = max(gradients) / min(gradients) if gradients else 1.0
    body = list(deviations.values())[:-1]  # the last layer may begin with zeros, on purpose
    return judged(
        f"deviations {deviations[least]:.1e} ({least}) to {deviations[most]:.1e} ({most}), gradients by {ratio:.0e}",
        "activations or gradients vanish or explode: look at init, activation, depth, and the scale of inputs",
        suspicious=min(body, default=1.0) < LEAST or deviations[most] > MOST or ratio > RATIO,
    )
