"""Random changes to a batch of training images, each image with its own draw, on the device where the batch lies."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


class Augment:
    """Crop, flip, cutout and shift + rotation of uint8 images [N, C, H, W]; 0 or false switches a step off.

    crop: pad by so many pixels of 0 and cut the image out again anywhere (He et al. 2015, section 4.2: 4).
    flip: mirror left and right with probability 1/2. Wrong for digits and letters.
    cutout: a square of so many pixels, centred anywhere, becomes the mean colour (DeVries & Taylor 2017: 16).
    shift, rotate: up to so many pixels in x and y, and degrees, both ways, bilinear (LeCun et al. 1998 for digits).
    """

    def __init__(self, crop: int, flip: bool, cutout: int, shift: float, rotate: float) -> None:
        for name, value in {"crop": crop, "cutout": cutout, "shift": shift, "rotate": rotate}.items():
            if value < 0:
                raise ValueError(f"data.augment.{name}={value} is negative; use 0 to switch it off")
        self.crop, self.flip, self.cutout, self.shift, self.rotate = crop, flip, cutout, shift, rotate
        self.mean: Tensor | None = None  # colour of the training images [C, 1, 1], uint8; fills the holes of cutout

    def __bool__(self) -> bool:
        return any((self.crop, self.flip, self.cutout, self.shift, self.rotate))

    def __call__(self, images: Tensor, generator: torch.Generator, total: int, start: int = 0) -> Tensor:
        """Augment images start, start + 1, ... of a batch of `total`.

        The draws are made for the whole batch, so that every split of it over processes sees the same changes.
        """
        part = slice(start, start + len(images))

        def draw(*shape: int) -> Tensor:  # uniform in [0, 1)
            return torch.rand(total, *shape, generator=generator, device=images.device)[part]

        if self.shift or self.rotate:
            images = shift_and_rotate(images, self.shift * (2 * draw(2) - 1), self.rotate * (2 * draw() - 1))
        if self.crop:
            images = crop(images, (draw(2) * (2 * self.crop + 1)).long(), self.crop)
        if self.flip:
            images = torch.where((draw() < 0.5)[:, None, None, None], images.flip(-1), images)
        if self.cutout:
            images = cutout(images, draw(2), self.cutout, self.mean)
        return images


def crop(images: Tensor, offset: Tensor, padding: int) -> Tensor:
    """Cut [N, C, H, W] out of the zero-padded images at `offset` [N, 2] (y, x), each in 0..2*padding."""
    height, width = images.shape[-2:]
    # all windows of all images as one strided view; indexing copies only the window that each image asks for
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(images), device=images.device), :, offset[:, 0], offset[:, 1]]


def cutout(images: Tensor, centre: Tensor, size: int, fill: Tensor | None) -> Tensor:
    """Put `fill` [C, 1, 1] into a size x size square around `centre` [N, 2] in [0, 1) (y, x), clipped at the border."""

    def inside(length: int, at: Tensor) -> Tensor:
        first = (at * length).long() - size // 2
        pixel = torch.arange(length, device=images.device)
        return (pixel >= first[:, None]) & (pixel < first[:, None] + size)

    hole = (
        inside(images.shape[2], centre[:, 0])[:, None, :, None] & inside(images.shape[3], centre[:, 1])[:, None, None]
    )
    fill = torch.zeros((), dtype=images.dtype) if fill is None else fill
    return torch.where(hole, fill.to(images.device), images)


def shift_and_rotate(images: Tensor, shift: Tensor, degrees: Tensor) -> Tensor:
    """Move by `shift` [N, 2] pixels (x, y) and turn by `degrees` [N] about the centre; what comes in is 0."""
    height, width = images.shape[-2:]
    cos, sin = (degrees * math.pi / 180).cos(), (degrees * math.pi / 180).sin()
    x, y = -2 * shift[:, 0] / width, -2 * shift[:, 1] / height
    aspect = height / width
    matrix = torch.stack([cos, -sin * aspect, x, sin / aspect, cos, y], 1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, align_corners=False).round_().to(images.dtype)
