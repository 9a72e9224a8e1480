"""Test-time augmentation: the mean of the logits over changed views of each image, for more forward passes."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from athanor.data.augment import reflected

Kind = Literal["none", "flip", "flip_shift"]


def averaged(forward: Callable[[Tensor], Tensor], images: Tensor, kind: Kind, logits: Tensor) -> Tensor:
    """Logits [N, num_classes] of uint8 images [N, C, H, W], averaged over views; `logits` are the images' own.

    flip: the image and its mirror image, 2 passes. flip_shift: those count one half, and the other half is both views
    moved by one pixel up and left, and down and right, 6 passes (Jordan 2024, section 3.5).
    """
    if kind == "none":
        return logits
    logits = (logits + forward(images.flip(-1))) / 2
    if kind == "flip":
        return logits
    moved = [shifted(images, corner) for corner in (0, 2)]
    others = [forward(view) for image in moved for view in (image, image.flip(-1))]
    return (logits + torch.stack(others).mean(0)) / 2


def shifted(images: Tensor, corner: int) -> Tensor:
    """The window at (corner, corner) of the images, mirrored by one pixel at their border: 1 is the image itself."""
    height, width = images.shape[-2:]
    return reflected(images, 1)[..., corner : corner + height, corner : corner + width]
