"""The multilayer perceptron, plain or residual."""

import math
from typing import Literal

from torch import Tensor, nn

from athanor.base.errors import UserError, require
from athanor.models import layers


class MLP(nn.Module):
    """[Linear -> norm -> activation -> dropout] per width, then Linear: [B, ...] -> [B, num_classes].

    activation: one name for all hidden layers, or one for each.
    residual: two hidden layers of which the second is as wide as their input x compute activation(x + f(x)).
    Raises UserError where there is no hidden layer, or no two that could be residual.
    """

    initialised_by_activation = True

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...],
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
        if residual and all(a != b for a, b in zip(widths, widths[2:], strict=False)):
            raise UserError(
                "model.residual=true adds x to the result of two layers, of which the second is as wide as x, and in "
                f"model.widths={list(widths)} none is; use e.g. model.widths=[{widths[0]},{widths[0]},{widths[0]}]"
            )
        fan_ins = [math.prod(input_shape), *widths]
        self.hidden = nn.Sequential()
        activations = [activation] * len(widths) if isinstance(activation, str) else list(activation)
        if len(activations) != len(widths):
            raise UserError(
                f"model.activation={activations} has {len(activations)} entries for {len(widths)} hidden layers; "
                "give one name, or as many as model.widths has entries"
            )
        made = [hidden_layer(*row, norm, dropout) for row in zip(fan_ins, widths, activations, strict=False)]
        i = 0
        while i < len(made):
            is_block = residual and 0 < i < len(made) - 1 and widths[i - 1] == widths[i + 1]
            self.hidden.append(Residual(made[i], made[i + 1]) if is_block else nn.Sequential(*made[i]))
            i += 2 if is_block else 1
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(layers.flat_numbers(x)))


class Residual(nn.Module):
    """activation(x + f(x)), f being a hidden layer and the linear layer and norm of a second one (He et al. 2015).

    Of one layer alone, x + Wx + b, it would be a linear layer like any other.
    """

    def __init__(self, first: list[nn.Module], second: list[nn.Module]):
        super().__init__()
        self.branch = nn.Sequential(*first, *second[:2])
        self.after = nn.Sequential(*second[2:])

    def forward(self, x: Tensor) -> Tensor:
        out = self.branch(x)
        return self.after(out + x.repeat(1, out.shape[1] // x.shape[1]))  # maxout takes the larger of two sums


def hidden_layer(fan_in: int, width: int, activation: str, norm: str, dropout: float) -> list[nn.Module]:
    fan_out = width * layers.inputs_per_unit(activation)
    return [
        nn.Linear(fan_in, fan_out, bias=norm == "none"),  # a norm layer has a bias of its own
        layers.norm1d(norm, fan_out),
        layers.activation(activation),
        layers.dropout(dropout),
    ]
