"""An exponential moving average of the weights."""

import lightning.pytorch as L

from athanor.callbacks.averages import Average


class EMA(Average):
    """average = d average + (1 - d) weights, after each optimizer step.

    The decay d after t steps is min(decay, 1 - (1 + t / warmup_gamma)^-warmup_power), as in timm's ModelEmaV3: 0 at the
    first step, so that the weights which the network was initialised with never enter, and a short run is not ruined.

    every: optimizer steps from one update to the next, which has the decay of as many steps, d^every: it costs less,
    and reaches as far back.
    """

    def __init__(self, decay: float, warmup_gamma: float, warmup_power: float, every: int) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"callbacks.ema.decay={decay:g}: use 0 (no average) to below 1")
        for name, value in {"warmup_gamma": warmup_gamma, "warmup_power": warmup_power}.items():
            if value <= 0:
                raise ValueError(f"callbacks.ema.{name}={value:g}: use more than 0")
        if every < 1:
            raise ValueError(f"callbacks.ema.every={every}: use 1 or more optimizer steps")
        self.decay, self.gamma, self.power, self.every = decay, warmup_gamma, warmup_power, every

    def decay_after(self, steps: int) -> float:
        """In [0, decay]."""
        return min(self.decay, 1 - (1 + steps / self.gamma) ** -self.power)

    def share(self, trainer: L.Trainer, step: int) -> float | None:
        before = step - 1
        return None if before % self.every else 1 - self.decay_after(before) ** self.every
