"""Parts of a network that are not trained, always or for the first epochs."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from athanor.base.errors import UserError, nearest, require


@dataclass(frozen=True)
class Frozen:
    """Which parts of a network keep their weights, as a pretrained backbone does: in eval mode and without gradients.

    Batch norm in them normalises by its running statistics and leaves these alone, and dropout is off.

    freeze: names of parts, as [stem, stages.0]; or all_but_head, with which a linear probe is trained; None: nothing.
    freeze_epochs: how many epochs long; None: to the end. Until then the gradients of the parts are dropped, not saved:
        DistributedDataParallel knows only parameters that have had gradients from the beginning.
    Raises UserError for freeze_epochs below 1.
    """

    freeze: list[str] | Literal["all_but_head"] | None = None
    freeze_epochs: int | None = None

    def __post_init__(self) -> None:
        epochs = self.freeze_epochs
        require(epochs is None or epochs >= 1, f"model.freeze_epochs={epochs}: use 1 or more, or null")

    def parts(self, network: nn.Module) -> list[nn.Module]:
        """Raises UserError where a part does not exist, or nothing is left to train."""
        owners = [part for part in network.modules() if [*part.parameters(recurse=False)]]
        if self.freeze == "all_but_head":
            return owners[:-1]
        names = {name: part for name, part in network.named_modules() if name and [*part.parameters()]}
        for name in self.freeze or []:
            require(name in names, f"model.freeze: the network has no part {name}; {nearest(name, names)}")
        parts = [names[name] for name in self.freeze or []]
        kept = {id(parameter) for part in parts for parameter in part.parameters()}
        if all(id(parameter) in kept for parameter in network.parameters()):
            raise UserError(f"model.freeze={self.freeze} leaves nothing to train; leave a part out, as head")
        return parts
