"""Exponential moving average of the weights."""

import lightning.pytorch as L

from athanor.base.errors import require
from athanor.callbacks.weight_average import WeightAverage


class EMA(WeightAverage):
    """average = d * average + (1 - d) * weights, after each optimizer step.

    The decay d after t steps is min(decay, 1 - (1 + t / warmup_gamma)^-warmup_power), as in timm's ModelEmaV3. It is 0
    at the first step, so the initial weights have no part in the average, and rises so slowly that the average follows
    the weights of a short run too.

    decay: in [0, 1). warmup_gamma, warmup_power: above 0. every: optimizer steps between updates, 1 or more; each
    update then uses the decay of that many steps, d^every, so the average reaches back as far, and costs less.
    Raises UserError for a value outside these ranges.
    """

    def __init__(self, decay: float, warmup_gamma: float, warmup_power: float, every: int) -> None:
        super().__init__()
        require(0 <= decay < 1, f"callbacks.ema.decay={decay:g}: use 0 (no average) to below 1")
        require(warmup_gamma > 0, f"callbacks.ema.warmup_gamma={warmup_gamma:g}: use more than 0")
        require(warmup_power > 0, f"callbacks.ema.warmup_power={warmup_power:g}: use more than 0")
        require(every >= 1, f"callbacks.ema.every={every}: use 1 or more optimizer steps")
        self.decay = decay
        self.warmup_gamma = warmup_gamma
        self.warmup_power = warmup_power
        self.every = every

    def decay_after(self, steps: int) -> float:
        """In [0, decay]."""
        return min(self.decay, 1 - (1 + steps / self.warmup_gamma) ** -self.warmup_power)

    def share(self, trainer: L.Trainer, step: int) -> float | None:
        before = step - 1
        return None if before % self.every else 1 - self.decay_after(before) ** self.every
