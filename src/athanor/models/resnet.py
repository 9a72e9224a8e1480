"""Residual networks for small images (He et al. 2015, section 4.2), and their wide form of 18 layers."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from athanor.base.errors import UserError, require
from athanor.models import layers


class ResNet(nn.Module):
    """3x3 stem, stages of basic blocks, global average pool, fc: [B, C, H, W] -> [B, num_classes].

    depth = 6n + 2: three stages of n blocks, width 16, 32, 64, shortcut option A, as in the paper.
    depth = 18: four stages of two blocks, width 64, 128, 256, 512, shortcut option B.
    `width` (of the first stage) and `option` replace these defaults. Raises UserError for any other depth.
    """

    initialised_by_activation = True

    def __init__(
        self,
        *,
        input_shape: tuple[int, int, int],
        num_classes: int,
        depth: int,
        width: int | None,
        shortcut: bool,
        option: Literal["A", "B"] | None,
        norm: Literal["none", "batch", "group", "layer"],
    ):
        super().__init__()
        layers.require_pictures("resnet", input_shape)
        if depth != 18 and (depth < 8 or depth % 6 != 2):
            raise UserError(f"model.depth={depth} must be 6n+2 (8, 14, 20, 32, 44, 56, 110, ...) or 18")
        num_stages, blocks_per_stage = (4, 2) if depth == 18 else (3, (depth - 2) // 6)
        default_width, default_option = (64, "B") if depth == 18 else (16, "A")
        width = default_width if width is None else width
        require(width >= 1, f"model.width={width} must be at least 1, or null for 16 (6n+2) and 64 (18)")
        option = default_option if option is None else option
        require(option in ("A", "B"), f"model.option={option} is not known; choose from: A, B")
        self.stem = nn.Sequential(*conv(input_shape[0], width, 3, 1, norm), nn.ReLU())
        self.stages = nn.Sequential()
        widths = [width * 2**i for i in range(num_stages)]
        option = option if shortcut else None
        for in_channels, out_channels in zip([width, *widths], widths, strict=False):
            self.stages.append(resnet_stage(in_channels, out_channels, blocks_per_stage, option, norm))
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.stem(x))
        return self.head(x.mean((2, 3)))


def resnet_stage(in_channels: int, width: int, num_blocks: int, option: str | None, norm: str) -> nn.Sequential:
    block_inputs = [in_channels] + [width] * (num_blocks - 1)
    return nn.Sequential(*(BasicBlock(channels, width, option, norm) for channels in block_inputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, to whose result x is added: [B, in_channels, H, W] -> [B, width, H / stride, W / stride].

    The stride is 2 where the width changes, else 1.
    option: how x gets the new shape where it changes, "A" or "B". None: nothing is added (the plain network that the
    paper compares with).
    """

    def __init__(self, in_channels: int, width: int, option: str | None, norm: str):
        super().__init__()
        stride = 1 if in_channels == width else 2
        first, second = conv(in_channels, width, 3, stride, norm), conv(width, width, 3, 1, norm)
        self.convs = nn.Sequential(*first, nn.ReLU(), *second)
        if option is None:
            self.shortcut = None
        elif in_channels == width:
            self.shortcut = nn.Identity()
        elif option == "A":
            self.shortcut = Subsample()
        else:
            self.shortcut = nn.Sequential(*conv(in_channels, width, 1, stride, norm))
        self.relu = nn.ReLU()

    @property
    def branch(self) -> nn.Module | None:
        """What is added to x; initialise.py asks for it."""
        return None if self.shortcut is None else self.convs

    def forward(self, x: Tensor) -> Tensor:
        out = self.convs(x)
        if self.shortcut is not None:
            out = out + self.shortcut(x)
        return self.relu(out)


class Subsample(nn.Module):
    """Option A, no parameters: every second pixel, zeros for the new channels. [B, C, H, W] -> [B, 2C, H/2, W/2]."""

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, x.shape[1]))


def conv(in_channels: int, width: int, kernel_size: int, stride: int, norm: str) -> tuple[nn.Module, nn.Module]:
    """A convolution, whose padding keeps the size but for the stride, and its norm, which has a bias of its own."""
    layer = nn.Conv2d(in_channels, width, kernel_size, stride, padding=kernel_size // 2, bias=norm == "none")
    return layer, layers.norm2d(norm, width)
