"""The multilayer perceptron, plain or residual."""

import math
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from athanor.base.errors import UserError, require
from athanor.models import layers


class MLP(nn.Module):
    """[Linear -> norm -> activation -> dropout] per width, then Linear: [B, C, H, W] -> [B, num_classes].

    activation: one name for all hidden layers, or one for each.
    residual: a hidden layer as wide as the one before it computes x + f(x).
    Raises UserError where there is no hidden layer, or no layer that could be residual.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, int, int],
        num_classes: int,
        widths: list[int],
        norm: Literal["none", "batch", "layer"],
        activation: str | list[str],
        dropout: float,
        residual: bool,
    ):
        super().__init__()
        require(widths, "model.widths=[] leaves no hidden layer; use model=linear, or e.g. model.widths=[512,256]")
        layers.check_widths("model.widths", widths)
        if residual and all(a != b for a, b in pairwise(widths)):
            raise UserError(
                f"model.residual=true adds x to f(x) where a width repeats, and in model.widths={list(widths)} none "
                f"does; use e.g. model.widths=[{widths[0]},{widths[0]}]"
            )
        fan_ins = [math.prod(input_shape), *widths]
        self.hidden = nn.Sequential()
        activations = [activation] * len(widths) if isinstance(activation, str) else list(activation)
        if len(activations) != len(widths):
            raise UserError(
                f"model.activation={activations} has {len(activations)} entries for {len(widths)} hidden layers; "
                "give one name, or as many as model.widths has entries"
            )
        for i, name in enumerate(activations):
            block = Residual if residual and i > 0 and widths[i - 1] == widths[i] else nn.Sequential
            self.hidden.append(block(*hidden_layer(fan_ins[i], widths[i], norm, name, dropout)))
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x.flatten(1)))


class Residual(nn.Sequential):
    """x + f(x), f being the modules in their order."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def hidden_layer(fan_in: int, width: int, norm: str, activation: str, dropout: float) -> list[nn.Module]:
    fan_out = width * layers.inputs_per_unit(activation)
    return [
        nn.Linear(fan_in, fan_out, bias=norm == "none"),  # a norm layer has a bias of its own
        layers.norm1d(norm, fan_out),
        layers.activation(activation),
        layers.dropout(dropout),
    ]
