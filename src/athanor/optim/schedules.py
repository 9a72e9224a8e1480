"""Learning-rate schedules as closed forms of the optimizer step, and any that torch has.

A closed form gives the factor on the configured learning rate at time t. `unit` says what t counts: optimizer steps,
epochs (with their fractions) or the fraction of the run, which is 0 at the first step and 1 at the last. Being a
function of the step, it is exact under accumulation, resuming and any number of devices.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

Unit = Literal["fraction", "epochs", "steps"]


def constant(t: float) -> float:
    return 1.0


def step(t: float, every: float, gamma: float) -> float:
    """gamma^floor(t / every)"""
    check_positive("every", every)
    check_positive("gamma", gamma)
    return gamma ** math.floor(t / every + 1e-9)  # 0.3 / 0.1 is 2.9999999999999996


def multistep(t: float, milestones: list[float], gamma: float) -> float:
    """gamma^(milestones passed)"""
    check_positive("gamma", gamma)
    return gamma ** sum(t >= milestone for milestone in milestones)


def exponential(t: float, gamma: float) -> float:
    """gamma^t"""
    check_positive("gamma", gamma)
    return gamma**t


def polynomial(t: float, power: float, floor: float) -> float:
    """floor + (1 - floor) * (1 - t)^power; t in [0, 1], and the floor after that."""
    if power <= 0:
        raise ValueError(f"scheduler.power={power} must be positive; 1 is linear")
    return floor + (1 - floor) * max(1 - t, 0) ** power


def cosine(t: float, floor: float) -> float:
    """floor + (1 - floor) * (1 + cos(pi t)) / 2 (Loshchilov & Hutter 2017, equation 5); t in [0, 1]."""
    return floor + (1 - floor) * (1 + math.cos(math.pi * t)) / 2


def one_cycle(t: float, start: float, peak_at: float, floor: float) -> float:
    """From `start` up to 1 at `peak_at`, then down to `floor`, each half a cosine (Smith & Topin 2018); t in [0, 1]."""
    if not 0 <= peak_at <= 1:
        raise ValueError(f"scheduler.peak_at={peak_at} is no part of the run; use 0 to 1")
    if t < peak_at or peak_at == 1:
        return start + (1 - start) * (1 - math.cos(math.pi * t / peak_at)) / 2
    return cosine((t - peak_at) / (1 - peak_at), floor)


def check_positive(key: str, value: float) -> None:
    if value <= 0:
        raise ValueError(f"scheduler.{key}={value} must be positive")


def by_step(factor: partial, unit: Unit, total_steps: int, steps_per_epoch: int) -> Callable[[int], float]:
    """The schedule as LambdaLR wants it: steps in, factor out."""
    # the last step is total - 1; what a schedule ends with is reached there, not one step after the run
    scale = {"fraction": max(total_steps - 1, 1), "epochs": steps_per_epoch, "steps": 1}[unit]
    limit = 1.0 if unit == "fraction" else math.inf
    return lambda steps: factor(min(steps / scale, limit))


def is_torch(scheduler: partial) -> bool:
    return isinstance(scheduler.func, type) and issubclass(scheduler.func, LRScheduler)


def build(
    scheduler: partial, unit: str, optimizer: Optimizer, total_steps: float, steps_per_epoch: int
) -> tuple[LRScheduler, str]:
    """The scheduler, and what moves it: `step` or `epoch`. torch's own take unit steps or epochs."""
    if is_torch(scheduler):
        if unit == "fraction":
            raise ValueError(f"scheduler.unit=fraction does not fit {scheduler.func.__name__}; use epochs or steps")
        if unit == "steps" and issubclass(scheduler.func, ReduceLROnPlateau):
            raise ValueError("scheduler.unit=steps does not fit ReduceLROnPlateau; use epochs")
        return scheduler(optimizer), "step" if unit == "steps" else "epoch"
    late = [milestone for milestone in scheduler.keywords.get("milestones", ()) if unit == "fraction" and milestone > 1]
    if late:
        raise ValueError(
            f"scheduler.milestones={late} come after the run; use fractions of it, or scheduler.unit=epochs"
        )
    if unit == "fraction" and math.isinf(total_steps):
        raise ValueError("this scheduler needs the length of the run; set trainer.max_epochs or trainer.max_steps")
    total = 0 if math.isinf(total_steps) else int(total_steps)
    return LambdaLR(optimizer, by_step(scheduler, unit, total, steps_per_epoch)), "step"
