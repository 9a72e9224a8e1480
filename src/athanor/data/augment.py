"""Random changes to a batch of training images: each image has its own, made on the device where the batch is."""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from athanor.base.errors import require


@dataclass
class Augment:
    """Crop, flip, cutout, and shift with rotation, of uint8 images [N, C, H, W]; 0 or false switches a step off.

    crop: pad by so many pixels on each side and cut a window of the old size out at a random place (He et al. 2015,
        section 4.2, take 4).
    padding_mode: what crop pads with: zeros, or the image mirrored at its border (reflect).
    flip: swap left and right with probability 1/2; wrong for digits and letters. `alternating` draws this once for
        each image, and in every second epoch mirrors exactly the other images (Jordan 2024, section 3.6), so two
        epochs in a row show each image both ways.
    cutout: a square with sides of so many pixels, centred at a random pixel, gets the mean colour of the training
        images (DeVries & Taylor 2017 take 16).
    shift, rotate: move by up to so many pixels in x and in y, and turn by up to so many degrees, in both directions,
        with bilinear interpolation (LeCun et al. 1998, for digits).
    Raises UserError for a negative number.

    An augmentation of your own is a dataclass that inherits from this one, in src/athanor/data/<name>.py. The node
    `augment` of a data set or an experiment names it and gives the values of its own fields, as in
    data.augment._target_=athanor.data.mine.Mine +data.augment.strength=0.5. It is called as `__call__` says, with
    batches of training images alone, if bool() of it is true. tests/test_extend.py adds one.
    """

    crop: int
    padding_mode: Literal["zeros", "reflect"]
    flip: bool | Literal["alternating"]
    cutout: int
    shift: float
    rotate: float
    # mean colour of the training images, uint8 [C, 1, 1]: what cutout fills with
    mean: Tensor | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        for name in "crop", "cutout", "shift", "rotate":
            value = getattr(self, name)
            require(value >= 0, f"data.augment.{name}={value} is negative; use 0 to switch it off")

    def __bool__(self) -> bool:
        return any((self.crop, self.flip, self.cutout, self.shift, self.rotate))

    def __call__(
        self, images: Tensor, generator: torch.Generator, total: int, start: int = 0, mirrored: Tensor | None = None
    ) -> Tensor:
        """Change uint8 images [N, C, H, W]: images number start to start + N - 1 of a batch of `total` images.

        Random numbers are drawn for the whole batch, so an image is changed in the same way however many processes
        share the batch. generator: on the device of the images. mirrored: which images alternating flip mirrors in
        this epoch, bool [N].
        """
        part = slice(start, start + len(images))

        def draw(*shape: int) -> Tensor:  # uniform in [0, 1)
            return torch.rand(total, *shape, generator=generator, device=images.device)[part]

        if self.shift or self.rotate:
            images = shift_and_rotate(images, self.shift * (2 * draw(2) - 1), self.rotate * (2 * draw() - 1))
        if self.crop:
            images = crop(images, (draw(2) * (2 * self.crop + 1)).long(), self.crop, self.padding_mode)
        if self.flip:
            images = flip(images, mirrored if self.flip == "alternating" else draw() < 0.5)
        if self.cutout:
            images = cutout(images, draw(2), self.cutout, self.mean)
        return images


def crop(images: Tensor, offset: Tensor, padding: int, padding_mode: str = "zeros") -> Tensor:
    """Cut [N, C, H, W] out of the padded images; `offset` [N, 2] (y, x) in 0..2*padding is the window's corner."""
    height, width = images.shape[-2:]
    padded = reflected(images, padding) if padding_mode == "reflect" else F.pad(images, (padding,) * 4)
    padded = padded.contiguous()  # images in channels_last are not, and as_strided needs it
    count, channels, padded_height, padded_width = padded.shape
    # A window is `height` rows of memory. Copying rows by the place [N, C, H] where each begins is 3.5 times faster on
    # the CPU than indexing every pixel.
    start = torch.arange(count * channels, device=images.device).view(count, channels, 1) * padded_height
    start = (start + offset[:, 0, None, None] + torch.arange(height, device=images.device)) * padded_width
    start = start + offset[:, 1, None, None]
    rows = padded.as_strided((padded.numel() - width + 1, width), (1, 1))
    return rows.index_select(0, start.flatten()).view(images.shape)


def reflected(images: Tensor, padding: int) -> Tensor:
    """Pad by mirroring the images at their border, as F.pad(mode="reflect"), which does not take uint8."""
    padded = signed(images)
    for dim in -1, -2:
        first, last = padded.narrow(dim, 1, padding), padded.narrow(dim, -padding - 1, padding)
        padded = torch.cat([first.flip(dim), padded, last.flip(dim)], dim)
    return padded.view(images.dtype)


def signed(images: Tensor) -> Tensor:
    """The same memory as int16 where the images are uint16, of which torch 2.10 can neither flip nor choose."""
    return images.view(torch.int16) if images.dtype == torch.uint16 else images


def mirror(images: Tensor) -> Tensor:
    """Left and right swapped."""
    return signed(images).flip(-1).view(images.dtype)


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Swap left and right of the images that `mirrored`, bool [N], chooses."""
    # index_select out of the images and their mirror images is faster than torch.where
    number = torch.arange(len(images), device=images.device)
    return torch.cat([images, mirror(images)]).index_select(0, number + len(images) * mirrored)


def cutout(images: Tensor, centre: Tensor, size: int, fill: Tensor | None) -> Tensor:
    """Fill a square of size x size pixels, clipped at the border, with the colour `fill` [C, 1, 1]; None is black.

    centre: [N, 2] (y, x) as fractions of height and width, in [0, 1).
    """

    def inside(length: int, at: Tensor) -> Tensor:
        first = (at * length).long() - size // 2
        pixel = torch.arange(length, device=images.device)
        return (pixel >= first[:, None]) & (pixel < first[:, None] + size)

    rows, columns = inside(images.shape[2], centre[:, 0]), inside(images.shape[3], centre[:, 1])
    hole = rows[:, None, :, None] & columns[:, None, None]
    fill = torch.zeros((), dtype=images.dtype) if fill is None else fill
    return torch.where(hole, signed(fill.to(images.device)), signed(images)).view(images.dtype)


def shift_and_rotate(images: Tensor, shift: Tensor, degrees: Tensor) -> Tensor:
    """Move by `shift` [N, 2] pixels (x right, y down) and turn by `degrees` [N], counterclockwise, about the centre.

    Pixels that come in from outside are 0; the result has the dtype of the images.
    """
    height, width = images.shape[-2:]
    cos, sin = (degrees * math.pi / 180).cos(), (degrees * math.pi / 180).sin()
    x, y = -2 * shift[:, 0] / width, -2 * shift[:, 1] / height
    aspect = height / width
    matrix = torch.stack([cos, -sin * aspect, x, sin / aspect, cos, y], 1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, align_corners=False).round_().to(images.dtype)
