"""Changes of learning rate, momentum and weight decay during a run, in the optimizer and in its schedulers.

Both are saved in checkpoints, so a change holds for the rest of the run, and after a resume.
"""

from collections.abc import Iterable, Iterator

from torch.optim import Optimizer, RMSprop
from torch.optim.lr_scheduler import LRScheduler

from athanor.base.lightning_internals import names_of_rates, parts_of_scheduler

GROUP_RATES = ("lr", "initial_lr", "max_lr", "min_lr")  # in a parameter group; the last two are OneCycleLR's


def scale_lr(optimizer: Optimizer, schedulers: Iterable[LRScheduler], factor: float) -> None:
    """Multiply the learning rate of each group by `factor`, now and in all that the schedulers will set later."""
    for group in optimizer.param_groups:
        group.update({key: group[key] * factor for key in GROUP_RATES if key in group})
    for scheduler in with_parts(schedulers):
        for name in names_of_rates(scheduler):
            setattr(scheduler, name, [lr * factor for lr in getattr(scheduler, name)])


def set_momentum(group: dict, value: float) -> None:
    """Set `momentum` of a parameter group, or the first of Adam's betas; a group that has neither is left alone."""
    if "momentum" in group:
        group["momentum"] = value
    elif "betas" in group:
        group["betas"] = (value, *group["betas"][1:])


def set_weight_decay(optimizer: Optimizer, schedulers: Iterable[LRScheduler], value: float) -> None:
    """Set the weight decay of weights; biases and norm layers have none.

    A run that began without weight decay has all parameters in one group, which is split for it.
    """
    if value and len(optimizer.param_groups) == 1:
        split_group(optimizer, schedulers)
    for group in decayed_groups(optimizer):
        group["weight_decay"] = value


def split_group(optimizer: Optimizer, schedulers: Iterable[LRScheduler]) -> None:
    """Split the only group into the two that `parameter_groups` makes for a run with decay, in the same order."""
    [group] = optimizer.param_groups
    biases = [p for p in group["params"] if p.ndim <= 1]
    if not biases:
        return
    group["params"] = [p for p in group["params"] if p.ndim > 1]
    optimizer.add_param_group({**group, "params": biases, "weight_decay": 0.0})
    for scheduler in with_parts(schedulers):
        for name in (*names_of_rates(scheduler), "min_lrs", "lr_lambdas"):  # lists with one entry for each group
            if hasattr(scheduler, name):
                setattr(scheduler, name, [*getattr(scheduler, name)] * 2)


def decayed_groups(optimizer: Optimizer) -> list[dict]:
    """The groups of weights, whose weight decay can be set: of Muon's groups only the one of the hidden layers."""
    groups = [group for group in optimizer.param_groups if "weight_decay" in group and group.get("hidden", True)]
    return [g for g in groups if not g.get("normalize") and any(p.ndim > 1 for p in g["params"])]


def with_parts(schedulers: Iterable[LRScheduler]) -> Iterator[LRScheduler]:
    """The schedulers, and those that a SequentialLR or a ChainedScheduler among them is made of."""
    for scheduler in schedulers:
        yield scheduler
        yield from with_parts(parts_of_scheduler(scheduler))


def current_value(optimizer: Optimizer, name: str) -> float | None:
    """The first group's `lr`, `momentum` or `weight_decay`; None where it has none."""
    if name == "weight_decay":
        return next((group[name] for group in decayed_groups(optimizer)), None)
    first = optimizer.param_groups[0]
    return first.get(name, first["betas"][0] if name == "momentum" and "betas" in first else None)


def reason_against_change(optimizer: Optimizer, schedulers: Iterable[LRScheduler], name: str) -> str | None:
    """Why `lr`, `momentum` or `weight_decay` cannot be changed, as a sentence; None where it can."""
    kind = type(optimizer).__name__
    if name == "weight_decay" and any(group.get("normalize") for group in optimizer.param_groups):
        return f"{kind} holds the norms of the weights (optim.normalize), so they cannot decay"
    value = current_value(optimizer, name)
    if value is None:
        return f"{kind} has no {name}"
    if name == "lr" and value == 0:
        return "the schedule has brought the learning rate to 0, which no factor changes"
    if name != "momentum":
        return None
    if any(sets_momentum(scheduler) for scheduler in with_parts(schedulers)):
        return "the schedule sets it at each step (scheduler.momentum)"
    if isinstance(optimizer, RMSprop) and any("momentum_buffer" not in state for state in optimizer.state.values()):
        return "RMSprop has momentum only where it began with it (optim.momentum above 0)"
    return None


def sets_momentum(scheduler: LRScheduler) -> bool:
    """Whether it sets momentum at each step: MomentumSchedule does, and torch's OneCycleLR and CyclicLR can."""
    return getattr(scheduler, "cycle_momentum", False)
