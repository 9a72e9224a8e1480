"""Learning rate and batch size."""

from dataclasses import dataclass
from typing import Literal

Rule = Literal["none", "linear", "sqrt"]


@dataclass(frozen=True)
class LRScaling:
    """The configured learning rate is right for `base_batch` images a step; others get k or sqrt(k) times as much.

    k is the share of the global batch, over all devices and accumulated batches, in the base batch. Linear is the
    rule for SGD (Goyal et al. 2017, section 2.1), the root that for Adam (Malladi et al. 2022); both end somewhere.
    """

    lr_scaling: Rule = "none"
    base_batch: int = 128

    def __post_init__(self) -> None:
        if self.base_batch < 1:
            raise ValueError(f"optim.base_batch={self.base_batch}: use 1 or more")

    def factor(self, batch: int) -> float:
        return (batch / self.base_batch) ** {"none": 0, "linear": 1, "sqrt": 0.5}[self.lr_scaling]

    def words(self, lr: float, batch: int) -> str | None:
        """What is done to this learning rate; None where nothing is."""
        if self.lr_scaling == "none":
            return None
        scaled = lr * self.factor(batch)
        return f"learning rate {lr:g} -> {scaled:g}: {self.lr_scaling} in the batch, {batch} against {self.base_batch}"
