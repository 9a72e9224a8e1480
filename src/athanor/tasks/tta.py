"""Test-time augmentation: averages the logits over changed views of each image, at the cost of more forward passes."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from athanor.data.augmentation.augment import mirror, reflected

Kind = Literal["none", "flip", "flip_shift"]


def averaged(forward: Callable[[Tensor], Tensor], images: Tensor, kind: Kind, logits: Tensor) -> Tensor:
    """Mean logits [N, num_classes] over views of uint8 images [N, C, H, W].

    logits: those of the images as they are.
    flip: the image and its mirror image, 2 forward passes. flip_shift: 6 forward passes; those two count one half, and
    the other half is both of them moved by one pixel up and left, and down and right (Jordan 2024, section 3.5).
    """
    if kind == "none":
        return logits
    logits = (logits + forward(mirror(images))) / 2
    if kind == "flip":
        return logits
    moved = [shifted(images, corner) for corner in (0, 2)]
    others = [forward(view) for image in moved for view in (image, mirror(image))]
    return (logits + torch.stack(others).mean(0)) / 2


def shifted(images: Tensor, corner: int) -> Tensor:
    """Images [N, C, H, W] padded by one mirrored pixel, and cut to their size at (corner, corner): 0 moves them down
    and right, 1 leaves them as they are, 2 moves them up and left.
    """
    height, width = images.shape[-2:]
    return reflected(images, 1)[..., corner : corner + height, corner : corner + width]
