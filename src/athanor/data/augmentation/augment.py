"""Random changes to a batch of training images: each image has its own, made on the device where the batch is."""

import math
from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from athanor.base.errors import UserError, require
from athanor.data.augmentation import colour
from athanor.data.augmentation.windows import in_dtype, resized_crop, windows
from athanor.data.preprocess import chunks
from athanor.data.sources.checks import told
from athanor.data.streamed import at_distances

RATIO = [3 / 4, 4 / 3]
COLOURS = ("brightness", "contrast", "saturation", "hue", "randaugment")


@dataclass
class Augment:
    """Random changes of pictures [N, C, H, W]; 0, false or null switches one off. They are made in this order:

    resized_crop: cut out a window with a random share of the area, in this range, and a ratio of width to height in the
        range resized_ratio, by default 3/4 to 4/3, and enlarge it to the old size, bilinear (Szegedy et al. 2015,
        section 6, take [0.08, 1]).
    shift, rotate: move by up to so many pixels in x and in y, and turn by up to so many degrees, in both directions,
        with bilinear interpolation (LeCun et al. 1998, for digits).
    crop: pad by so many pixels on each side and cut a window of the old size out at a random place (He et al. 2015,
        section 4.2, take 4).
    padding_mode: what crop pads with: zeros, or the image mirrored at its border (reflect).
    flip: swap left and right with probability 1/2; wrong for digits and letters. `alternating` draws this once for
        each image, and in every second epoch mirrors exactly the other images (Jordan 2024, section 3.6), so two
        epochs in a row show each image both ways.
    brightness, contrast, saturation: multiply by a factor from max(0, 1 - value) to 1 + value; hue: turn the circle of
        colours by up to so many whole turns in both directions, 0 to 0.5. As torchvision's ColorJitter, but always in
        this order, and rounded once.
    randaugment: so many operations of 14, drawn for each image, all with this magnitude, 0 to 30 (Cubuk et al. 2019).
    cutout: a square with sides of so many pixels, centred at a random pixel, gets the mean colour of the training
        images (DeVries & Taylor 2017 take 16).

    Colours need uint8 pictures of 1 or 3 channels; the others take any dtype, and give it back.
    Raises UserError for values out of range, and for inputs that cannot be changed so.

    An augmentation of your own is a function of images, or a torch.nn.Module, in src/athanor/data/<name>.py and a
    configs/data/augment/<name>.yaml with its `_target_` and its own arguments: data/augment=<name>, or typed
    data.augment._target_=athanor.data.mine.noisy +data.augment.strength=0.5. It takes the place of ours, whose values,
    of a data set or an experiment, are dropped; own_augment.py, beside this file, says how it is called. A dataclass
    that inherits from this one has these fields too, and is called as `__call__` says. tests/test_extend.py adds them.
    """

    crop: int
    padding_mode: Literal["zeros", "reflect"]
    flip: bool | Literal["alternating"]
    cutout: int
    shift: float
    rotate: float
    _: KW_ONLY  # off where nothing is said, as in the config of a run from before these were there
    resized_crop: list[float] | None = None
    resized_ratio: list[float] | None = None
    brightness: float = 0
    contrast: float = 0
    saturation: float = 0
    hue: float = 0
    randaugment: int = 0
    magnitude: int = 9
    # mean colour of the training images, [C, 1, 1] in their dtype: what cutout fills with
    mean: Tensor | None = field(default=None, init=False)

    no_switches: ClassVar[tuple[str, ...]] = ("padding_mode", "resized_ratio", "magnitude", "mean")

    def __post_init__(self) -> None:
        for name in "crop", "cutout", "shift", "rotate", *COLOURS:
            value = getattr(self, name)
            require(value >= 0, f"data.augment.{name}={value} is negative; use 0 to switch it off")
        require(self.hue <= 0.5, f"data.augment.hue={self.hue}: use up to 0.5, half a turn of the circle of colours")
        require(self.magnitude in range(31), f"data.augment.magnitude={self.magnitude}: use 0 to 30")
        for name, most in {"resized_crop": 1, "resized_ratio": math.inf}.items():
            value = getattr(self, name)
            is_range = value is None or (len(value) == 2 and 0 < value[0] <= value[1] <= most)
            require(is_range, f"data.augment.{name}={value}: use [least, most], above 0" + ", up to 1" * (most == 1))

    def __bool__(self) -> bool:
        geometry = (self.crop, self.flip, self.cutout, self.shift, self.rotate, self.resized_crop)
        return any(geometry) or any((self.brightness, self.contrast, self.saturation, self.hue, self.randaugment))

    @property
    def alternates(self) -> bool:
        return self.flip == "alternating"

    @property
    def switched_off(self) -> str:
        """What to do to have none, for messages."""
        on = {name: value for name, value in vars(self).items() if name not in self.no_switches and value}
        off = {bool: "false", str: "false", list: "null"}
        return "type " + " ".join(f"data.augment.{name}={off.get(type(value), 0)}" for name, value in on.items())

    def prepare(self, images: Tensor, index: Tensor) -> None:
        """Take what is needed of the training images, images[index]. Raises UserError where they cannot be changed."""
        if not Augment.__bool__(self):  # a step that a subclass adds may take what is no picture
            return
        kind = told(images)
        if images.ndim != 4:
            raise UserError(
                f"data.augment changes pictures [N, C, H, W], and this data has {kind}; {self.switched_off}"
            )
        _, channels, height, width = images.shape
        if any(getattr(self, name) for name in COLOURS) and not (images.dtype == torch.uint8 and channels in (1, 3)):
            raise UserError(
                f"data.augment changes colours of uint8 pictures of 1 or 3 channels, and this data has {kind}; "
                f"{self.switched_off}"
            )
        if channels == 1 and (self.saturation or self.hue):
            raise UserError("data.augment.saturation and hue change nothing in grey pictures; use 0 for both")
        if self.padding_mode == "reflect" and self.crop >= min(height, width):
            raise UserError(
                f"data.augment.crop={self.crop} mirrors more than images of {width}x{height} have; "
                "use a smaller crop, or data.augment.padding_mode=zeros"
            )
        if self.cutout:
            self.mean = mean_colour(images, index)

    def __call__(
        self, images: Tensor, generator: torch.Generator, total: int, start: int = 0, mirrored: Tensor | None = None
    ) -> Tensor:
        """Change pictures [N, C, H, W]: number start to start + N - 1 of a batch of `total`.

        Random numbers are drawn for the whole batch, so an image is changed in the same way however many processes
        share the batch. generator: on the device of the images. mirrored: which images alternating flip mirrors in
        this epoch, bool [N].
        """
        part = slice(start, start + len(images))

        def draw(*shape: int) -> Tensor:  # uniform in [0, 1)
            return torch.rand(total, *shape, generator=generator, device=images.device)[part]

        if self.resized_crop:
            images = resized_crop(
                images, *windows(draw(10, 2), draw(2), images, self.resized_crop, self.resized_ratio or RATIO)
            )
        if self.shift or self.rotate:
            images = shift_and_rotate(images, self.shift * (2 * draw(2) - 1), self.rotate * (2 * draw() - 1))
        if self.crop:
            images = crop(images, (draw(2) * (2 * self.crop + 1)).long(), self.crop, self.padding_mode)
        if self.flip:
            images = flip(images, mirrored if self.alternates else draw() < 0.5)
        if self.brightness or self.contrast or self.saturation or self.hue:
            strengths = {name: getattr(self, name) for name in ("brightness", "contrast", "saturation", "hue")}
            images = colour.jitter(images, {name: colour.factor(name, s, draw()) for name, s in strengths.items() if s})
        if self.randaugment:
            from athanor.data.augmentation import randaugment  # torchvision takes a second, and only this needs it

            images = randaugment.changed(images, draw(self.randaugment, 2), self.magnitude)
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
    return seen_as(images.dtype, padded)


def signed(images: Tensor) -> Tensor:
    """The same memory as int16 where the images are uint16, of which torch 2.10 can neither flip nor choose."""
    return seen_as(torch.int16, images) if images.dtype == torch.uint16 else images


def seen_as(dtype: torch.dtype, images: Tensor) -> Tensor:
    """The same memory as another type, where it is another: ONNX has no such operation."""
    return images if images.dtype is dtype else images.view(dtype)


def mirror(images: Tensor) -> Tensor:
    """Left and right swapped."""
    return seen_as(images.dtype, signed(images).flip(-1))


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
    return in_dtype(F.grid_sample(images.float(), grid, align_corners=False), images.dtype)


def mean_colour(images: Tensor, index: Tensor) -> Tensor:
    """The mean over about 1,000 of images[index], [C, 1, 1] of their type."""
    index = at_distances(index, 1000)  # the images may be sorted by class
    inner = tuple(range(2, images.ndim))
    total = sum(chunk.sum((0, *inner), dtype=torch.float64) for chunk in chunks(images, index))
    return (total / (len(index) * images[0][0].numel())).to(images.dtype)[:, None, None]
