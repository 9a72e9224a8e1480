"""What `scheduler=` says: learning rate and momentum as functions of the optimizer step, or a scheduler of torch.

The functions of this file give the factor on the configured learning rate at time t. The setting `unit` says what t
counts: optimizer steps, epochs (with their fractions) or the fraction of the run, which is 0 at the first step and 1
at the last. A function with a `length`, in that unit, goes from t = 0 to t = 1 over this length and then stays at its
last value. For the two functions that fall at certain times, t is the share of these steps that are done: it stays
below 1, or they would fall once more for the very last step. As functions of the step they are exact under gradient
accumulation, after a resume and on any number of devices.

A warm-up of w steps rises in a straight line: step s = 0, 1, ... has the factor (s + 1) / (w + 1) times that of step w.
A function with a length begins after the warm-up and has what is left of the length; the others count t from the
beginning of the run.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from athanor.base.errors import UserError, require
from athanor.optim.schedulers import MomentumSchedule, WarmUp

Unit = Literal["fraction", "epochs", "steps"]
ROUNDING = 1e-9  # 0.3 / 0.1 is 2.9999999999999996


def constant(t: float) -> float:
    return 1.0


def step_decay(t: float, every: float, gamma: float) -> float:
    """gamma^floor(t / every)"""
    check_positive(every=every, gamma=gamma)
    return gamma ** math.floor(t / every + ROUNDING)


def multistep(t: float, milestones: list[float], gamma: float) -> float:
    """gamma^(number of milestones that t has reached)"""
    check_positive(gamma=gamma)
    return gamma ** sum(t >= milestone - ROUNDING for milestone in milestones)


def exponential(t: float, gamma: float) -> float:
    """gamma^t"""
    check_positive(gamma=gamma)
    return gamma**t


def inverse(t: float, gamma: float, power: float) -> float:
    """(1 + gamma t)^-power"""
    check_positive(gamma=gamma, power=power)
    return (1 + gamma * t) ** -power


def polynomial(t: float, power: float, floor: float) -> float:
    """floor + (1 - floor) * (1 - t)^power; t in [0, 1]."""
    check_positive(power=power)
    check_fraction(floor=floor)
    return floor + (1 - floor) * max(1 - t, 0) ** power


def cosine(t: float, floor: float) -> float:
    """floor + (1 - floor) * (1 + cos(pi t)) / 2 (Loshchilov & Hutter 2017, equation 5); t in [0, 1]."""
    check_fraction(floor=floor)
    return floor + (1 - floor) * (1 + math.cos(math.pi * t)) / 2


def cosine_restarts(t: float, cycles: int, growth: float, floor: float) -> float:
    """`cycles` cosines one after another, each `growth` times as long as the one before (same paper); t in [0, 1]."""
    check_positive(growth=growth)
    if cycles < 1:
        raise UserError(f"scheduler.cycles={cycles}: use 1 or more")
    lengths = [growth**number for number in range(cycles)]
    into = t * sum(lengths)  # time since the cycle began
    for length in lengths[:-1]:
        if into < length - ROUNDING:
            return cosine(into / length, floor)
        into = max(into - length, 0)
    return cosine(min(into / lengths[-1], 1), floor)


def one_cycle(t: float, start: float, peak_at: float, floor: float) -> float:
    """From `start` up to 1 at `peak_at`, then down to `floor`, each half a cosine (Smith & Topin 2018); t in [0, 1]."""
    check_fraction(peak_at=peak_at, start=start)
    if t < peak_at or peak_at == 1:
        return start + (1 - start) * (1 - math.cos(math.pi * t / peak_at)) / 2
    return cosine((t - peak_at) / (1 - peak_at), floor)


def rise(t: float, start: float, end: float) -> float:
    """Momentum (not a factor) in a straight line: start + (end - start) * t; t in [0, 1]."""
    check_momentum(start=start, end=end)
    return start + (end - start) * t


def cycle(t: float, high: float, low: float, peak_at: float) -> float:
    """Momentum (not a factor) from `high` down to `low` where the learning rate of one_cycle peaks, and back."""
    check_momentum(high=high, low=low)
    check_fraction("scheduler.momentum", peak_at=peak_at)
    return high - (high - low) * one_cycle(t, 0, peak_at, 0)


FALLING = (step_decay, multistep)  # at certain times
ENDLESS = (constant, exponential, inverse)  # also where t is counted in fractions of the run
ENDS = ("total_steps", "total_iters", "T_max")  # arguments by which schedulers of torch are told their length


def check_positive(**settings: float) -> None:
    for key, value in settings.items():
        if value <= 0:
            raise UserError(f"scheduler.{key}={value} must be positive")


def check_fraction(group: str = "scheduler", **settings: float) -> None:
    for key, value in settings.items():
        if not 0 <= value <= 1:
            raise UserError(f"{group}.{key}={value} is not a fraction; use 0 to 1")


def check_momentum(**settings: float) -> None:
    for key, value in settings.items():
        if not 0 <= value < 1:
            raise UserError(f"scheduler.momentum.{key}={value}: use 0 to below 1, as 0.9")


@dataclass(frozen=True)
class RunLength:
    """How long a run is: its optimizer steps (infinite where nothing limits them), and the steps of an epoch."""

    steps: float
    per_epoch: int

    def to_steps(self, amount: float, unit: Unit) -> float:
        """How many steps an amount in this unit is."""
        return amount * {"fraction": self.steps, "epochs": self.per_epoch, "steps": 1}[unit]

    def last_step(self, amount: float, unit: Unit) -> float:
        """The number of the last of these steps; the first step of the run is 0."""
        return amount * (self.steps - 1) if unit == "fraction" else self.to_steps(amount, unit) - 1


@dataclass(frozen=True)
class Schedule:
    """What `scheduler=` says: a function of this file or a scheduler of torch, and its place in the run."""

    factor: partial
    unit: Unit = "epochs"
    length: float | None = None  # in units; None: t is the time since the run began
    warmup: float = 0.0
    warmup_unit: Unit | None = None  # None: that of the schedule
    momentum: partial | None = None  # `rise`, `cycle` or the like
    momentum_length: float = 1.0  # fraction of the run

    def schedulers(self, optimizer: Optimizer, run: RunLength, is_trial: bool = False) -> list[tuple[LRScheduler, str]]:
        """Schedulers, and when each is moved: at the end of each `step` or `epoch`.

        is_trial: the run is a few steps to see whether everything works, so it need not reach what comes later.
        Raises UserError for settings that are out of range or do not fit the run or the optimizer.
        """
        if math.isinf(run.steps) and "fraction" in (self.unit, self.warmup and self.warmup_unit):
            raise UserError("this scheduler needs the length of the run; set trainer.max_epochs or trainer.max_steps")
        warmup = 0 if is_trial else self._warmup_steps(run)
        schedulers = []
        if isinstance(self.factor.func, type) and issubclass(self.factor.func, LRScheduler):
            schedulers = self._of_torch(optimizer, warmup)
        elif self.factor.func is not constant or warmup:
            if not is_trial:
                self._check_milestones(run)
            for end in 0.0, 1.0:  # a wrong setting is refused now, not after the warm-up or past the peak
                self.factor(end)
            schedulers = [(LambdaLR(optimizer, self.by_step(run, warmup)), "step")]
        if self.momentum:
            schedulers.append((MomentumSchedule(optimizer, self.momentum_by_step(run)), "step"))
        return schedulers

    def end(self, run: RunLength) -> float:
        """Optimizer steps after which the learning rate and the momentum stay as they are; 0 without such an end.

        A schedule ends with its `length`, its last milestone or what torch's own are given as their length, and with
        the run where it counts in fractions of it, unless it is one of ENDLESS.
        """
        settings = {name: each.default for name, each in inspect.signature(self.factor).parameters.items()}
        lengths = [self.length, *(settings.get(name) for name in ENDS), max(settings.get("milestones", (0,)))]
        if settings.get("steps_per_epoch"):  # the other form of OneCycleLR
            lengths.append(settings["epochs"] * settings["steps_per_epoch"])
        is_of_run = self.unit == "fraction" and self.factor.func not in ENDLESS
        length = next(filter(None, lengths), 1.0 if is_of_run else 0.0)
        momentum = self.momentum_length * run.steps if self.momentum else 0.0
        return max(run.to_steps(length, self.unit) if length else 0.0, momentum)

    def by_step(self, run: RunLength, warmup: int) -> Callable[[int], float]:
        """The function that LambdaLR takes: number of the step -> factor. warmup: in steps."""
        begin, length = 0, self.length
        if length is not None:
            check_positive(length=length)
            begin = warmup
            if warmup and run.last_step(length, self.unit) - warmup < 1:
                raise UserError(f"scheduler.length={length} ends within the warm-up; use a longer length")
        elif self.unit == "fraction":
            length = 1.0
        last, scale = (
            math.inf,
            run.to_steps(1, self.unit),
        )  # t stays after `last` steps, and rises by 1 in `scale` steps
        if length is not None and self.factor.func in FALLING:
            scale = max(run.to_steps(length, self.unit) - begin, 1)
            last = scale - 1
        elif length is not None:
            last = scale = max(run.last_step(length, self.unit) - begin, 1)

        def factor(steps: int) -> float:
            risen = min((steps + 1) / (warmup + 1), 1.0)
            return risen * self.factor(min(max(steps, warmup) - begin, last) / scale)

        return factor

    def momentum_by_step(self, run: RunLength) -> Callable[[int], float]:
        if math.isinf(run.steps):
            raise UserError("scheduler.momentum needs the length of the run; set trainer.max_epochs or max_steps")
        check_positive(**{"momentum.length": self.momentum_length})
        last = max(run.last_step(self.momentum_length, "fraction"), 1)
        return lambda steps: self.momentum(min(steps / last, 1.0))

    def _of_torch(self, optimizer: Optimizer, warmup: int) -> list[tuple[LRScheduler, str]]:
        name, is_plateau = self.factor.func.__name__, issubclass(self.factor.func, ReduceLROnPlateau)
        if self.unit == "fraction" or self.length is not None:
            setting = "unit=fraction" if self.unit == "fraction" else f"length={self.length}"
            raise UserError(f"scheduler.{setting} does not fit {name}; use epochs or steps")
        if self.unit == "steps" and is_plateau:
            raise UserError("scheduler.unit=steps does not fit ReduceLROnPlateau; use epochs")
        if warmup and not is_plateau:
            raise UserError(f"scheduler.warmup does not fit {name}; compose it with torch's LinearLR")
        before = [(WarmUp(optimizer, warmup), "step")] if warmup else []
        return [*before, (self.factor(optimizer), "step" if self.unit == "steps" else "epoch")]

    def _warmup_steps(self, run: RunLength) -> int:
        unit = self.warmup_unit or self.unit
        require(self.warmup >= 0, f"scheduler.warmup={self.warmup} is negative; use 0 or more")
        if not self.warmup:
            return 0
        steps = max(round(run.to_steps(self.warmup, unit)), 1)
        if steps > run.steps - 2:
            amount = f"{self.warmup:g} of the run" if unit == "fraction" else f"{self.warmup:g} {unit}"
            raise UserError(
                f"scheduler.warmup={self.warmup:g} ({amount}) is {steps} steps, and the run has {run.steps:g}; "
                "use a shorter warm-up, or a longer run"
            )
        return steps

    def _check_milestones(self, run: RunLength) -> None:
        end = run.steps / run.to_steps(1, self.unit)
        outside = [value for value in self.factor.keywords.get("milestones", ()) if not 0 < value < end]
        if outside:
            raise UserError(
                f"scheduler.milestones={outside} are not in the run, which is {end:g} {self.unit} long; "
                "scheduler.unit=fraction counts in parts of it"
            )
