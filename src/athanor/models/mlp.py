"""The multilayer perceptron, plain or residual."""

import math
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from athanor.models import layers


class MLP(nn.Module):
    """[Linear -> norm -> activation -> dropout] per width, then Linear: [B, C, H, W] -> [B, num_classes]."""

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
        widths = list(widths)
        if not widths:
            raise ValueError("model.widths=[] leaves no hidden layer; use model=linear, or e.g. model.widths=[512,256]")
        layers.check_widths("model.widths", widths)
        if residual and all(a != b for a, b in pairwise(widths)):
            raise ValueError(
                f"model.residual=true adds x to f(x) where a width repeats, and in model.widths={widths} none does; "
                f"use e.g. model.widths=[{widths[0]},{widths[0]}]"
            )
        fan_ins = [math.prod(input_shape), *widths]
        self.hidden = nn.Sequential()
        for i, name in enumerate(one_per_layer(activation, len(widths))):
            block = Residual if residual and i > 0 and widths[i - 1] == widths[i] else nn.Sequential
            self.hidden.append(block(*hidden_layer(fan_ins[i], widths[i], norm, name, dropout)))
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x.flatten(1)))


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def hidden_layer(fan_in: int, width: int, norm: str, activation: str, dropout: float) -> list[nn.Module]:
    fan_out = width * layers.pieces(activation)
    return [
        nn.Linear(fan_in, fan_out, bias=norm == "none"),  # a norm has its own shift
        layers.norm1d(norm, fan_out),
        layers.activation(activation),
        layers.dropout(dropout),
    ]


def one_per_layer(activation: str | list[str], num_layers: int) -> list[str]:
    names = [activation] * num_layers if isinstance(activation, str) else list(activation)
    if len(names) != num_layers:
        raise ValueError(
            f"model.activation={names} has {len(names)} entries for {num_layers} hidden layers; "
            "give one name, or as many as model.widths has entries"
        )
    return names
