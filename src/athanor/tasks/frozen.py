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
        if self.freeze == "all_but_head":
            return around_last_layer(network)
        names = {name: part for name, part in network.named_modules() if name and [*part.parameters()]}
        for name in self.freeze or []:
            require(name in names, f"model.freeze: the network has no part {name}; {nearest(name, names)}")
        parts = [names[name] for name in self.freeze or []]
        kept = {id(parameter) for part in parts for parameter in part.parameters()}
        if all(id(parameter) in kept for parameter in network.parameters()):
            raise UserError(f"model.freeze={self.freeze} leaves nothing to train; leave a part out, as head")
        return parts


def around_last_layer(network: nn.Module) -> list[nn.Module]:
    """All but the last layer with weights. Parameters of a module that holds it, as the class token of a transformer,
    are a part of their own.
    """
    parts, around = [], network
    last = [part for part in network.modules() if [*part.parameters(recurse=False)]][-1]
    while around is not last:
        below = next(child for child in around.children() if any(part is last for part in child.modules()))
        parts += [child for child in around.children() if child is not below]
        if own := [*around.parameters(recurse=False)]:
            parts.append(nn.ParameterList(own))
        around = below
    return parts
