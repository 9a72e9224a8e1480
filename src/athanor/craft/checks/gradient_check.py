"""The gradient of network and loss as composed, held against centred differences in float64 (CS231n, neural nets 3)."""

import time
from collections.abc import Callable

import torch
from torch import nn

from athanor.craft.checks.finding import DoesNotApplyError, Finding, judged
from athanor.craft.checks.subject import Subject, as_dtype, is_pair

FAST = False
EXAMPLES = 3
DIMENSIONS = 4  # of each parameter tensor, drawn at random
BURN_IN = 5  # steps before, as the first point is a special one
STEPS = (1e-5, 1e-6, 1e-7)  # h; a smaller one leaves a kink on one side of both points
WRONG, UNCOMFORTABLE = 1e-2, 1e-4  # relative errors |a - n| / max(|a|, |n|), as in the notes
TINY = 1e-6  # gradients below it are mostly rounding, as float64 leaves 1e-11 of the difference
SECONDS = 20  # at most; what is left of the parameters is then counted


def check(subject: Subject) -> Finding:
    if not subject.module.automatic_optimization:
        raise DoesNotApplyError("the module optimizes by hand")
    module = subject.copy()
    for step in range(BURN_IN):
        subject.step(module, subject.batch, step)
    module = module.to(torch.float64)
    batch = as_dtype(subject.batch, torch.float64)
    batch = tuple(part[:EXAMPLES] for part in batch) if is_pair(batch) else batch
    module.zero_grad()
    loss = subject.loss(module, batch)
    if loss.dtype != torch.float64:
        raise DoesNotApplyError("the loss is not in float64, where the module casts to float32")
    loss.backward()
    return compare(subject, module, lambda: subject.loss(module, batch).item())


def compare(subject: Subject, module: nn.Module, value: Callable[[], float]) -> Finding:
    errors: dict[str, float] = {}
    analytic, numeric = [], []
    kinks = skipped = 0
    end = time.monotonic() + SECONDS
    with torch.no_grad():
        base = value()
        for name, parameter in subject.trained(module):
            if parameter.grad is None:
                continue
            if time.monotonic() > end:
                skipped += 1
                continue
            generator = torch.Generator().manual_seed(parameter.numel())
            for place in torch.randperm(parameter.numel(), generator=generator)[:DIMENSIONS].tolist():
                a = parameter.grad.flatten()[place].item()
                n, is_kink = derivative(parameter, place, a, base, value)
                if is_kink:
                    kinks += 1
                    continue
                analytic.append(a)
                numeric.append(n)
                errors[name] = max(errors.get(name, 0.0), error(a, n))
    if not errors:
        raise DoesNotApplyError("no parameter has a gradient that can be compared")
    worst = max(errors, key=errors.get)
    a, n = torch.tensor(analytic, dtype=torch.float64), torch.tensor(numeric, dtype=torch.float64)
    distance = ((a - n).norm() / (a.norm() + n.norm()).clamp_min(1e-300)).item()
    return judged(
        f"largest relative error {errors[worst]:.1e} ({worst}), of the vectors {distance:.1e}, "
        f"{len(analytic)} numbers, {kinks} kinks skipped"
        + f", {skipped} parameters not reached in {SECONDS} s"
        * bool(skipped),
        wrong=errors[worst] > WRONG,
        suspicious=errors[worst] > UNCOMFORTABLE,
        advice="a gradient is not that of the loss: look at backward functions of your own, at detach() and .data",
    )


def error(a: float, n: float) -> float:
    return 0.0 if max(abs(a), abs(n)) < TINY else abs(a - n) / max(abs(a), abs(n))


def derivative(
    parameter: nn.Parameter, place: int, a: float, base: float, value: Callable[[], float]
) -> tuple[float, bool]:
    """The centred difference that is nearest to the gradient `a`, and whether there is a kink instead: the differences
    to both sides are then apart, however small the step is.
    """
    index = torch.unravel_index(torch.tensor(place), parameter.shape)
    before, best, kinks = parameter[index].item(), None, 0
    for h in STEPS:
        sides = []
        for sign in 1, -1:
            parameter[index] = before + sign * h
            sides.append(value())
        parameter[index] = before
        n = (sides[0] - sides[1]) / (2 * h)
        best = n if best is None or error(a, n) < error(a, best) else best
        if error(a, n) < UNCOMFORTABLE:
            return n, False
        forward, backward = (sides[0] - base) / h, (base - sides[1]) / h
        kinks += abs(forward - backward) > 0.1 * abs(n - a)
    return best, kinks == len(STEPS)
