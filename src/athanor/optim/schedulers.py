"""What torch lacks: a warm-up before ReduceLROnPlateau, a schedule of momentum, steps at the end of an epoch."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer, RMSprop
from torch.optim.lr_scheduler import LRScheduler

from athanor.base.errors import UserError


class WarmUp(LRScheduler):
    """Raises the learning rate in a straight line to the configured one in so many steps, and then leaves it alone."""

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
    """Sets the momentum of each group that has one at each step; the learning rate is left alone.

    momentum: optimizer steps that were made -> momentum. Raises UserError where the optimizer cannot follow it: Adam
    and its relatives divide by 1 - beta1^t, which corrects their bias only if beta1 was the same at all t steps (Kingma
    & Ba 2015, section 3); with beta1 from 0.5 to 0.99 in 100 steps the last one would be 1.6 times too long.
    """

    cycle_momentum = True  # torch's own schedulers say by this name that they set momentum

    def __init__(self, optimizer: Optimizer, momentum: Callable[[int], float]) -> None:
        groups, name = optimizer.param_groups, type(optimizer).__name__
        if not any("momentum" in group for group in groups):
            has_beta = any("betas" in group for group in groups)
            reason = "takes its beta1 for constant (bias correction)" if has_beta else "has none"
            raise UserError(f"scheduler.momentum: {name} {reason}; use optim=momentum, or scheduler.momentum=constant")
        if isinstance(optimizer, RMSprop) and momentum(0) == 0:  # its first step decides whether it has a buffer
            raise UserError("scheduler.momentum: RMSprop cannot begin with 0; use scheduler.momentum.start=0.1")
        self.momentum = momentum
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        for group in (group for group in self.optimizer.param_groups if "momentum" in group):
            group["momentum"] = self.momentum(self.last_epoch)
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict:
        return {key: value for key, value in super().state_dict().items() if key != "momentum"}  # no plain data


def step_epoch_schedulers(configs: list[Any], metric: Tensor | None) -> None:
    """Step the schedulers that are moved once an epoch; ReduceLROnPlateau waits for the end of a warm-up.

    configs: the trainer's lr_scheduler_configs. metric: what ReduceLROnPlateau follows; None leaves it as it is.
    """
    is_warming_up = any(isinstance(each.scheduler, WarmUp) and not each.scheduler.is_over for each in configs)
    for each in configs:
        if each.interval != "epoch" or is_warming_up:
            continue
        if not each.reduce_on_plateau:
            each.scheduler.step()
        elif metric is not None:
            each.scheduler.step(metric)
