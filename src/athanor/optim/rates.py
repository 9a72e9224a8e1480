"""Changes of an optimizer's rates within a run, which its schedules and its checkpoints keep."""

from collections.abc import Iterable, Iterator

from torch.optim import Optimizer, RMSprop
from torch.optim.lr_scheduler import LRScheduler

OF_A_GROUP = ("lr", "initial_lr", "max_lr", "min_lr")  # the last two are OneCycleLR's
OF_A_SCHEDULER = ("base_lrs", "max_lrs", "_last_lr")  # one for each group; min_lrs is plateau's floor, and stays


def scale_lr(optimizer: Optimizer, schedulers: Iterable[LRScheduler], factor: float) -> None:
    """Multiply the learning rate of each group, now and in all that its schedules will set."""
    for group in optimizer.param_groups:
        for key in OF_A_GROUP:
            if key in group:
                group[key] = group[key] * factor
    for scheduler in each(schedulers):
        for name in OF_A_SCHEDULER:
            if hasattr(scheduler, name):
                setattr(scheduler, name, [lr * factor for lr in getattr(scheduler, name)])


def set_momentum(group: dict, value: float) -> None:
    """Of a parameter group: `momentum`, or the first of Adam's betas; a group may have neither."""
    if "momentum" in group:
        group["momentum"] = value
    elif "betas" in group:
        group["betas"] = (value, *group["betas"][1:])


def set_weight_decay(optimizer: Optimizer, schedulers: Iterable[LRScheduler], value: float) -> None:
    """Of weights alone. A run that began without decay has them in one group with biases and norms: it is split."""
    if value and len(optimizer.param_groups) == 1:
        split(optimizer, schedulers)
    for group in decaying(optimizer):
        group["weight_decay"] = value


def split(optimizer: Optimizer, schedulers: Iterable[LRScheduler]) -> None:
    """The only group into the two that `parameter_groups` makes for a run with decay, in the same order."""
    [group] = optimizer.param_groups
    kept = [p for p in group["params"] if p.ndim <= 1]
    if not kept:
        return
    group["params"] = [p for p in group["params"] if p.ndim > 1]
    optimizer.add_param_group({**group, "params": kept, "weight_decay": 0.0})
    for scheduler in each(schedulers):
        for name in (*OF_A_SCHEDULER, "min_lrs", "lr_lambdas"):
            if hasattr(scheduler, name):
                setattr(scheduler, name, [*getattr(scheduler, name)] * 2)


def decaying(optimizer: Optimizer) -> list[dict]:
    """The groups whose weights decay, or would at another weight_decay: for Muon those of its hidden layers."""
    able = [group for group in optimizer.param_groups if "weight_decay" in group and group.get("hidden", True)]
    return [g for g in able if not g.get("normalize") and any(p.ndim > 1 for p in g["params"])]


def each(schedulers: Iterable[LRScheduler]) -> Iterator[LRScheduler]:
    """Also those that a SequentialLR or a ChainedScheduler is made of."""
    for scheduler in schedulers:
        yield scheduler
        yield from each(getattr(scheduler, "_schedulers", ()))


def current(optimizer: Optimizer, name: str) -> float | None:
    """The first group's `lr`, `momentum` or `weight_decay`; None where it has none."""
    if name == "weight_decay":
        return next((group[name] for group in decaying(optimizer)), None)
    first = optimizer.param_groups[0]
    return first.get(name, first["betas"][0] if name == "momentum" and "betas" in first else None)


def obstacle(optimizer: Optimizer, schedulers: Iterable[LRScheduler], name: str) -> str | None:
    """Why `lr`, `momentum` or `weight_decay` cannot be changed, as a sentence, or None."""
    kind = type(optimizer).__name__
    if name == "weight_decay" and any(group.get("normalize") for group in optimizer.param_groups):
        return f"{kind} holds the norms of the weights (optim.normalize), so they cannot decay"
    value = current(optimizer, name)
    if value is None:
        return f"{kind} has no {name}"
    if name == "lr" and value == 0:
        return "the schedule has brought the learning rate to 0, which no factor changes"
    if name != "momentum":
        return None
    if any(sets_momentum(scheduler) for scheduler in each(schedulers)):
        return "the schedule sets it at each step (scheduler.momentum)"
    if isinstance(optimizer, RMSprop) and any("momentum_buffer" not in state for state in optimizer.state.values()):
        return "RMSprop has momentum only where it began with it (optim.momentum above 0)"
    return None


def sets_momentum(scheduler: LRScheduler) -> bool:
    """athanor's MomentumSchedule, which imports this file, or one of torch's cyclic ones."""
    return type(scheduler).__name__ == "MomentumSchedule" or getattr(scheduler, "cycle_momentum", False)
