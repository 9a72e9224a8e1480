"""How the learning rate follows the batch size."""

from dataclasses import dataclass
from typing import Literal

from athanor.base.errors import require

Rule = Literal["none", "linear", "sqrt"]


@dataclass(frozen=True)
class LRScaling:
    """The configured learning rate is meant for `base_batch` images a step; other batches get k or sqrt(k) times it.

    k is the global batch (over all devices and accumulated batches) divided by the base batch. The linear rule is
    for SGD (Goyal et al. 2017, section 2.1), the square root for Adam (Malladi et al. 2022). Neither holds for
    batches of any size: above some size a larger batch no longer allows a larger learning rate.
    Raises UserError for a base batch below 1.
    """

    lr_scaling: Rule = "none"
    base_batch: int = 128

    def __post_init__(self) -> None:
        require(self.base_batch >= 1, f"optim.base_batch={self.base_batch}: use 1 or more")

    def factor(self, batch: int) -> float:
        """What the learning rate is multiplied by for a global batch of so many images."""
        return (batch / self.base_batch) ** {"none": 0, "linear": 1, "sqrt": 0.5}[self.lr_scaling]

    def notice(self, lr: float, batch: int) -> str | None:
        """A line that says how this learning rate is changed; None where it is not."""
        if self.lr_scaling == "none":
            return None
        rule = f"optim.lr_scaling={self.lr_scaling} from a batch of {self.base_batch} to {batch}"
        return f"learning rate {lr:g} -> {lr * self.factor(batch):g}: {rule}"
