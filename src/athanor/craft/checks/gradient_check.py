"""The gradient of network and loss as composed, held against centred differences in float64 (CS231n, neural nets 3)."""

import time
from collections.abc import Callable

import torch
from lightning.fabric.utilities.apply_func import apply_to_collection
from torch import Tensor, nn

from athanor.craft.checks.finding import DoesNotApplyError, Finding, judged
from athanor.craft.checks.subject import Subject, is_pair

FAST = False
EXAMPLES = 3
DIMENSIONS = 4  # of each parameter tensor, drawn at random
BURN_IN = 5  # steps before, as the first point is a special one
STEPS = (1e-5, 1e-6, 1e-7)  # h; a smaller one leaves a kink on one side of both points
WRONG, UNCOMFORTABLE = 1e-2, 1e-4  # relative errors |a - n| / max(|a|, |n|), as in the notes
TINY = 1e-6  # gradients below it are mostly rounding, as float64 leaves 1e-11 of the difference
SECONDS = 20  # at most; what is left of the parameters is then counted


def check(subject: Subject) -> Finding:
    module = subject.single_optimizer()
    for step in range(BURN_IN):
        subject.step(module, subject.batch, step)
    module = module.to(torch.float64)
    batch = tuple(part[:EXAMPLES] for part in subject.batch) if is_pair(subject.batch) else subject.batch
    batch = apply_to_collection(batch, Tensor, lambda part: part.double() if part.is_floating_point() else part)
    module.zero_grad()
    loss = subject.loss(module, batch)
    if loss.dtype != torch.float64:
        raise DoesNotApplyError("the loss is not in float64, where the module casts to float32")
    loss.backward()
    parameters = {name: p for name, p in subject.trained(module) if p.grad is not None}
    return compare(parameters, lambda: subject.loss(module, batch).item())


@torch.no_grad()
def compare(parameters: dict[str, nn.Parameter], value: Callable[[], float]) -> Finding:
    pairs: list[tuple[float, float]] = []  # of gradient and centred difference
    worst, at, kinks, left = 0.0, "none", 0, 0
    end, base = time.monotonic() + SECONDS, value()
    for name, parameter in parameters.items():
        if time.monotonic() > end:
            left += 1
            continue
        generator = torch.Generator().manual_seed(parameter.numel())
        for place in torch.randperm(parameter.numel(), generator=generator)[:DIMENSIONS]:
            index = torch.unravel_index(place, parameter.shape)
            a = parameter.grad[index].item()
            n, is_kink = derivative(parameter, index, a, base, value)
            kinks += is_kink
            if not is_kink:
                pairs.append((a, n))
                worst, at = max((worst, at), (error(a, n), name))
    if not pairs:
        raise DoesNotApplyError("no parameter has a gradient that can be compared")
    a, n = torch.tensor(pairs, dtype=torch.float64).T
    distance = (a - n).norm() / (a.norm() + n.norm()).clamp_min(1e-300)
    return judged(
        f"largest relative error {worst:.1e} ({at}), of the vectors {distance:.1e}, {len(pairs)} numbers, "
        f"{kinks} kinks skipped" + f", {left} parameters not reached in {SECONDS} s" * bool(left),
        "a gradient is not that of the loss: look at backward functions of your own, at detach() and .data",
        wrong=worst > WRONG,
        suspicious=worst > UNCOMFORTABLE,
    )


def error(a: float, n: float) -> float:
    return 0.0 if max(abs(a), abs(n)) < TINY else abs(a - n) / max(abs(a), abs(n))


def derivative(
    parameter: nn.Parameter, index: tuple[Tensor, ...], a: float, base: float, value: Callable[[], float]
) -> tuple[float, bool]:
    """The centred difference that is nearest to the gradient `a`, and whether there is a kink instead: the differences
    to both sides are then apart, however small the step is.
    """
    before, found, kinks = parameter[index].item(), [], 0
    for h in STEPS:
        sides = []
        for moved in before + h, before - h:
            parameter[index] = moved
            sides.append(value())
        parameter[index] = before
        found.append((sides[0] - sides[1]) / (2 * h))
        if error(a, found[-1]) < UNCOMFORTABLE:
            return found[-1], False
        kinks += abs(sides[0] + sides[1] - 2 * base) / h > 0.1 * abs(found[-1] - a)
    return min(found, key=lambda n: error(a, n)), kinks == len(STEPS)
