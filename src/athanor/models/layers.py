"""Activations, normalisation and dropout layers by name, which the architectures share."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from athanor.base.errors import UserError, nearest, require


class Maxout(nn.Module):
    """Maximum of two linear functions (Goodfellow et al. 2013): [B, 2C, ...] -> [B, C, ...]."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(*x.chunk(2, dim=1))


ACTIVATIONS = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "maxout": Maxout,
}


def activation(name: str) -> nn.Module:
    return choose("model.activation", name, ACTIVATIONS)()


def inputs_per_unit(activation: str) -> int:
    """How many outputs of the layer below one unit of the activation reads: the layer below is that much wider."""
    return 2 if activation == "maxout" else 1


def norm1d(kind: str, width: int) -> nn.Module:
    """For [B, width]: `none`, `batch` or `layer`."""
    norms = {"none": nn.Identity, "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
    return choose("model.norm", kind, norms)(width)


def norm2d(kind: str, width: int) -> nn.Module:
    """For [B, width, H, W]: `none`, `batch`, `group` or `layer` (one group, over channels and pixels)."""
    # Up to 8 groups of at least 4 channels each: one channel of one pixel would have no variance.
    num_groups = math.gcd(8, width, max(1, width // 4))
    norms = {
        "none": nn.Identity,
        "batch": nn.BatchNorm2d,
        "group": lambda width: nn.GroupNorm(num_groups, width),
        "layer": lambda width: nn.GroupNorm(1, width),
    }
    return choose("model.norm", kind, norms)(width)


def dropout(p: float) -> nn.Module:
    require(0 <= p < 1, f"model.dropout={p} must be at least 0 (off) and below 1, e.g. model.dropout=0.5")
    return nn.Dropout(p) if p else nn.Identity()


def check_widths(key: str, widths: list[int]) -> None:
    if any(width < 1 for width in widths):
        raise UserError(f"{key}={list(widths)} holds a width below 1; every width must be at least 1")


def require_pictures(model: str, input_shape: tuple[int, ...]) -> None:
    if len(input_shape) != 3:
        raise UserError(
            f"model={model} takes pictures, [C, H, W], and an input of this data is {list(input_shape)}; "
            "use model=mlp or model=linear (grey pictures need their channel: inputs[:, None])"
        )


def flat_numbers(x: Tensor) -> Tensor:
    """[B, ...] -> [B, D]. Raises UserError for int64 inputs, which nothing before the network turns into numbers."""
    if not x.is_floating_point():
        raise UserError(
            "the inputs are int64, indices for a model that begins with an embedding; "
            "return them as float32 where they are numbers"
        )
    return x.flatten(1)


def choose(key: str, name: str, choices: Mapping[str, Any]) -> Any:
    """What has this name. Raises UserError, which says that `key` was set to it, where nothing has."""
    if name not in choices:
        raise UserError(f"{key}={name} is not known; {nearest(str(name), choices)}")
    return choices[name]
