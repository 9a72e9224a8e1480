"""Learning rates and momentum as closed forms of the optimizer step, and any schedule that torch has.

A closed form gives the factor on the configured learning rate at time t. `unit` says what t counts: optimizer steps,
epochs (with their fractions) or the fraction of the run, which is 0 at the first step and 1 at the last. A form that
has a `length`, in that unit, goes from t = 0 to 1 over it and stays at its end. Being functions of the step, they are
exact under accumulation, resuming and any number of devices.

A warm-up of w steps rises in a straight line: step s = 0, 1, ... is made with (s + 1) / (w + 1) of what step w has.
What has a length goes on from there, over what is left of it; the times of the others are times of the run.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch.optim import Optimizer, RMSprop
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from athanor.optim.rates import set_momentum

Unit = Literal["fraction", "epochs", "steps"]
ALMOST = 1e-9  # 0.3 / 0.1 is 2.9999999999999996


def constant(t: float) -> float:
    return 1.0


def step(t: float, every: float, gamma: float) -> float:
    """gamma^floor(t / every)"""
    check_positive("every", every)
    check_positive("gamma", gamma)
    return gamma ** math.floor(t / every + ALMOST)


def multistep(t: float, milestones: list[float], gamma: float) -> float:
    """gamma^(milestones passed)"""
    check_positive("gamma", gamma)
    return gamma ** sum(t >= milestone - ALMOST for milestone in milestones)


def exponential(t: float, gamma: float) -> float:
    """gamma^t"""
    check_positive("gamma", gamma)
    return gamma**t


def inverse(t: float, gamma: float, power: float) -> float:
    """(1 + gamma t)^-power"""
    check_positive("gamma", gamma)
    check_positive("power", power)
    return (1 + gamma * t) ** -power


def polynomial(t: float, power: float, floor: float) -> float:
    """floor + (1 - floor) * (1 - t)^power; t in [0, 1]."""
    if power <= 0:
        raise ValueError(f"scheduler.power={power} must be positive; 1 is linear")
    check_floor(floor)
    return floor + (1 - floor) * max(1 - t, 0) ** power


def cosine(t: float, floor: float) -> float:
    """floor + (1 - floor) * (1 + cos(pi t)) / 2 (Loshchilov & Hutter 2017, equation 5); t in [0, 1]."""
    check_floor(floor)
    return floor + (1 - floor) * (1 + math.cos(math.pi * t)) / 2


def cosine_restarts(t: float, cycles: int, growth: float, floor: float) -> float:
    """`cycles` cosines one after another, each `growth` times as long as the one before (same paper); t in [0, 1]."""
    check_positive("growth", growth)
    if cycles < 1:
        raise ValueError(f"scheduler.cycles={cycles}: use 1 or more")
    lengths = [growth**number for number in range(cycles)]
    into = t * sum(lengths)
    for length in lengths[:-1]:
        if into < length - ALMOST:
            return cosine(into / length, floor)
        into = max(into - length, 0)
    return cosine(min(into / lengths[-1], 1), floor)


def one_cycle(t: float, start: float, peak_at: float, floor: float) -> float:
    """From `start` up to 1 at `peak_at`, then down to `floor`, each half a cosine (Smith & Topin 2018); t in [0, 1]."""
    if not 0 <= peak_at <= 1:
        raise ValueError(f"scheduler.peak_at={peak_at} is no part of the run; use 0 to 1")
    if not 0 <= start <= 1:
        raise ValueError(f"scheduler.start={start} is no share of the learning rate; use 0 to 1")
    if t < peak_at or peak_at == 1:
        return start + (1 - start) * (1 - math.cos(math.pi * t / peak_at)) / 2
    return cosine((t - peak_at) / (1 - peak_at), floor)


def rise(t: float, start: float, end: float) -> float:
    """Of momentum, in a straight line: start + (end - start) * t; t in [0, 1]."""
    check_momentum(start=start, end=end)
    return start + (end - start) * t


def cycle(t: float, high: float, low: float, peak_at: float) -> float:
    """Of momentum, against one cycle: from `high` down to `low` where the learning rate peaks, and back."""
    check_momentum(high=high, low=low)
    if not 0 <= peak_at <= 1:
        raise ValueError(f"scheduler.momentum.peak_at={peak_at} is no part of the run; use 0 to 1")
    return high - (high - low) * one_cycle(t, 0, peak_at, 0)


def check_positive(key: str, value: float) -> None:
    if value <= 0:
        raise ValueError(f"scheduler.{key}={value} must be positive")


def check_floor(value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"scheduler.floor={value} is no share of the learning rate; use 0 to 1")


def check_momentum(**values: float) -> None:
    for key, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"scheduler.momentum.{key}={value}: use 0 to below 1, as 0.9")


@dataclass(frozen=True)
class Length:
    """Of a run: its optimizer steps, infinite where nothing limits them, and those of an epoch."""

    steps: float
    per_epoch: int

    def last(self, amount: float, unit: Unit) -> float:
        """The last step of an amount of the run."""
        return amount * (self.steps - 1) if unit == "fraction" else self.count(amount, unit) - 1

    def count(self, amount: float, unit: Unit) -> float:
        return amount * {"fraction": self.steps, "epochs": self.per_epoch, "steps": 1}[unit]


@dataclass(frozen=True)
class Schedule:
    """What `scheduler=` says: a closed form or a class of torch's, and how it is laid over a run."""

    factor: partial
    unit: Unit = "epochs"
    length: float | None = None  # in units; None: t is the time of the run
    warmup: float = 0.0
    warmup_unit: Unit | None = None  # None: that of the schedule
    momentum: partial | None = None  # a closed form
    momentum_length: float = 1.0  # of the run

    @property
    def is_torch(self) -> bool:
        return isinstance(self.factor.func, type) and issubclass(self.factor.func, LRScheduler)

    def schedulers(self, optimizer: Optimizer, run: Length, is_trial: bool = False) -> list[tuple[LRScheduler, str]]:
        """Schedulers, and what moves each: `step` or `epoch`. Raises ValueError for what does not fit the run.

        is_trial: the run is a few steps to see whether all works, so what would come later is no mistake.
        """
        if math.isinf(run.steps) and "fraction" in (self.unit, self.warmup and self.warmup_unit):
            raise ValueError("this scheduler needs the length of the run; set trainer.max_epochs or trainer.max_steps")
        warmup = 0 if is_trial else self._warmup_steps(run)
        if self.is_torch:
            found = self._of_torch(optimizer, warmup)
        elif self.factor.func is constant and not warmup:
            found = []  # nothing moves
        else:
            if not is_trial:
                self._check_milestones(run)
            for end in 0.0, 1.0:  # a wrong knob is told now, not after the warm-up or past the peak
                self.factor(end)
            found = [(LambdaLR(optimizer, self.by_step(run, warmup)), "step")]
        if self.momentum:
            found.append((MomentumSchedule(optimizer, self.momentum_by_step(run)), "step"))
        return found

    def by_step(self, run: Length, warmup: int) -> Callable[[int], float]:
        """The closed form as LambdaLR wants it: steps in, factor out."""
        if self.length is None:
            scale = max(run.last(1, "fraction"), 1) if self.unit == "fraction" else run.count(1, self.unit)
            limit = 1.0 if self.unit == "fraction" else math.inf
            time = lambda steps: min(steps / scale, limit)  # noqa: E731
        else:
            check_positive("length", self.length)
            last = run.last(self.length, self.unit)
            if warmup and last - warmup < 1:
                raise ValueError(f"scheduler.length={self.length} ends within the warm-up; use a shorter one")
            time = lambda steps: min((steps - warmup) / max(last - warmup, 1), 1.0)  # noqa: E731

        def factor(steps: int) -> float:
            risen = min((steps + 1) / (warmup + 1), 1.0)
            return risen * self.factor(time(max(steps, warmup)))

        return factor

    def momentum_by_step(self, run: Length) -> Callable[[int], float]:
        if math.isinf(run.steps):
            raise ValueError("scheduler.momentum needs the length of the run; set trainer.max_epochs or max_steps")
        check_positive("momentum.length", self.momentum_length)
        last = max(run.last(self.momentum_length, "fraction"), 1)
        return lambda steps: self.momentum(min(steps / last, 1.0))

    def _of_torch(self, optimizer: Optimizer, warmup: int) -> list[tuple[LRScheduler, str]]:
        name, is_plateau = self.factor.func.__name__, issubclass(self.factor.func, ReduceLROnPlateau)
        if self.unit == "fraction" or self.length is not None:
            got = "unit=fraction" if self.unit == "fraction" else f"length={self.length}"
            raise ValueError(f"scheduler.{got} does not fit {name}; use epochs or steps")
        if self.unit == "steps" and is_plateau:
            raise ValueError("scheduler.unit=steps does not fit ReduceLROnPlateau; use epochs")
        if warmup and not is_plateau:
            raise ValueError(f"scheduler.warmup does not fit {name}; compose it with torch's LinearLR")
        rising = [(WarmUp(optimizer, warmup), "step")] if warmup else []
        return [*rising, (self.factor(optimizer), "step" if self.unit == "steps" else "epoch")]

    def _warmup_steps(self, run: Length) -> int:
        unit = self.warmup_unit or self.unit
        if self.warmup < 0:
            raise ValueError(f"scheduler.warmup={self.warmup} is negative; use 0 or more")
        if not self.warmup:
            return 0
        steps = max(round(run.count(self.warmup, unit)), 1)
        if steps > run.steps - 2:
            amount = f"{self.warmup:g} of the run" if unit == "fraction" else f"{self.warmup:g} {unit}"
            raise ValueError(
                f"scheduler.warmup={self.warmup:g} ({amount}) is {steps} steps, and the run has {run.steps:g}; "
                "use a shorter warm-up, or a longer run"
            )
        return steps

    def _check_milestones(self, run: Length) -> None:
        given = self.factor.keywords.get("milestones", ())
        end = run.steps / run.count(1, self.unit)
        wrong = [milestone for milestone in given if not 0 < milestone <= end]
        if wrong:
            raise ValueError(
                f"scheduler.milestones={wrong} are not in the run, which is {end:g} {self.unit} long; "
                "scheduler.unit=fraction counts in parts of it"
            )


class WarmUp(LRScheduler):
    """Rises to the configured learning rate in a straight line, and leaves it alone from then on: before plateau."""

    def __init__(self, optimizer: Optimizer, steps: int) -> None:
        self.steps = steps
        super().__init__(optimizer)

    @property
    def is_over(self) -> bool:
        return self.last_epoch >= self.steps

    def get_lr(self) -> list[float]:
        if self.last_epoch > self.steps:
            return [group["lr"] for group in self.optimizer.param_groups]
        return [lr * (self.last_epoch + 1) / (self.steps + 1) for lr in self.base_lrs]


class MomentumSchedule(LRScheduler):
    """Sets momentum, or Adam's beta1, of each group at each step; the learning rate is left alone."""

    def __init__(self, optimizer: Optimizer, momentum: Callable[[int], float]) -> None:
        if not any("momentum" in group or "betas" in group for group in optimizer.param_groups):
            name = type(optimizer).__name__
            raise ValueError(f"scheduler.momentum: {name} has none; use optim=momentum, or scheduler.momentum=constant")
        if isinstance(optimizer, RMSprop) and momentum(0) == 0:  # it has a buffer only where its first step needs one
            raise ValueError(
                "scheduler.momentum: RMSprop cannot begin with 0; use scheduler.momentum.start=0.1, or more"
            )
        self.momentum = momentum
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        for group in self.optimizer.param_groups:
            set_momentum(group, self.momentum(self.last_epoch))
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict:
        return {key: value for key, value in super().state_dict().items() if key != "momentum"}
