"""Activations, norms and dropout by name, shared by the architectures."""

import difflib
import math
from collections.abc import Collection

import torch
from torch import Tensor, nn


class Maxout(nn.Module):
    """Maximum of two linear pieces (Goodfellow et al. 2013): [B, 2C, ...] -> [B, C, ...]."""

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
    check_choice("model.activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]()


def pieces(name: str) -> int:
    """How many outputs of the layer below one activation reads."""
    return 2 if name == "maxout" else 1


def norm1d(kind: str, width: int) -> nn.Module:
    norms = {"none": lambda _: nn.Identity(), "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
    check_choice("model.norm", kind, norms)
    return norms[kind](width)


def norm2d(kind: str, width: int) -> nn.Module:
    norms = {
        "none": lambda _: nn.Identity(),
        "batch": nn.BatchNorm2d,
        "group": lambda width: nn.GroupNorm(num_groups(width), width),
        "layer": lambda width: nn.GroupNorm(1, width),
    }
    check_choice("model.norm", kind, norms)
    return norms[kind](width)


def num_groups(width: int) -> int:
    # Up to 8 groups of at least 4 channels: a group of one channel on a 1x1 map would have no variance.
    return math.gcd(8, width, max(1, width // 4))


def dropout(p: float) -> nn.Module:
    if not 0 <= p < 1:
        raise ValueError(f"model.dropout={p} must be at least 0 (off) and below 1, e.g. model.dropout=0.5")
    return nn.Dropout(p) if p else nn.Identity()


def check_widths(knob: str, widths: list[int]) -> None:
    if any(width < 1 for width in widths):
        raise ValueError(f"{knob}={widths} holds a width below 1; every width must be at least 1")


def check_choice(knob: str, name: str, choices: Collection[str]) -> None:
    if name not in choices:
        raise ValueError(f"{knob}={name} is not known{nearest(name, choices)}; choose one of {', '.join(choices)}")


def nearest(name: str, choices: Collection[str]) -> str:
    near = difflib.get_close_matches(str(name), choices)
    return f" (did you mean {' or '.join(near)}?)" if near else ""
