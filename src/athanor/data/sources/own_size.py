"""Pictures that are kept decoded at their own size, and cut and resized anew whenever they are read."""

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from athanor.data.sources.image_file import middle_square
from athanor.data.streamed import Items, digests

TRIES = 10  # at a window that lies within the picture
RATIO = (3 / 4, 4 / 3)  # of its width to its height
HASHED_BYTES = 4096  # of a picture, evenly spaced where it has more


class OwnSizes(Dataset):
    """Items (uint8 [C, size, size], target) of pictures of any sizes.

    file: a .npy of uint8 [pixels, C], the rows of one picture after the other, which is memory-mapped.
    sizes: int64 [N, 2] (height, width) of the N pictures in it. index: int64, which of them are the items; targets:
    those of the items. area: [least, most] share of a picture in the random window that is cut out and resized,
    bilinear with antialiasing; None: the middle square, resized as that of an image file is.
    """

    def __init__(
        self, file: Path, sizes: np.ndarray, index: Tensor, targets: Tensor, size: int, area: Sequence[float] | None
    ) -> None:
        ends = sizes.prod(1).cumsum()
        self.file = file
        self.index, self.targets = index.numpy(), targets
        self.ends, self.sizes = ends[self.index], sizes[self.index]
        self.size = size
        self.area = area

    @cached_property
    def pixels(self) -> np.ndarray:
        return np.load(self.file, mmap_mode="c")  # torch warns about arrays that are read-only

    def __getstate__(self) -> dict[str, Any]:
        """A worker that is no fork maps the file itself: it would get a copy of all pixels."""
        return {name: value for name, value in vars(self).items() if name != "pixels"}

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        picture = self.picture(i)
        if self.area is None:
            image = middle_square(Image.fromarray(picture.squeeze(2) if picture.shape[2] == 1 else picture), self.size)
            return torch.from_numpy(np.atleast_3d(np.asarray(image)).transpose(2, 0, 1).copy()), self.targets[i]
        window = torch.from_numpy(picture[random_window(*picture.shape[:2], self.area)]).permute(2, 0, 1)
        resized = F.interpolate(window[None], (self.size, self.size), mode="bilinear", antialias=True)
        return resized[0], self.targets[i]

    def picture(self, i: int) -> np.ndarray:
        """uint8 [H, W, C]."""
        height, width = self.sizes[i]
        return self.pixels[self.ends[i] - height * width : self.ends[i]].reshape(height, width, -1)


class PictureItems(Items):
    """Items that are named by the pixels of their pictures, which can be read without resizing them."""

    def hashes(self, index: Tensor) -> Tensor:
        pictures = (self.reader.dataset.picture(i).reshape(-1) for i in index.tolist())
        return digests(pixels[:: -(-len(pixels) // HASHED_BYTES)].tobytes() for pixels in pictures)


def random_window(height: int, width: int, area: Sequence[float]) -> tuple[slice, slice]:
    """Rows and columns of a window with a share of the area in the range `area` and a ratio of width to height in
    RATIO, evenly on a log scale (Szegedy et al. 2015, section 6). Of TRIES the first that lies within the picture is
    taken, else the last one, cut off.
    """
    draws = torch.rand(TRIES + 1, 2).tolist()
    low, high = map(math.log, RATIO)
    for share, turn in draws[:TRIES]:
        pixels = (area[0] + share * (area[1] - area[0])) * height * width
        ratio = math.exp(low + turn * (high - low))
        rows, columns = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
        if 0 < rows <= height and 0 < columns <= width:
            break
    rows, columns = min(max(rows, 1), height), min(max(columns, 1), width)
    top, left = int(draws[TRIES][0] * (height - rows + 1)), int(draws[TRIES][1] * (width - columns + 1))
    return slice(top, top + rows), slice(left, left + columns)
