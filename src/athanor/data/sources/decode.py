"""Decodes many image files, in threads, into one .npy file."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from athanor.base.errors import UserError, require
from athanor.data.sources.image_file import has_16_bits, load_image

CHUNK = 32  # images a task: with one 32x32 image a task, handing tasks to threads takes as long as decoding


MODES = ("RGB", "L", "L16", "auto")


@dataclass(frozen=True)
class Decoding:
    """What becomes of a picture file.

    resize: "once", when it is decoded; "each": the pictures are kept at their own size, and resized whenever they are
    read, by `workers` processes; in training, of a random window with a share of the area in the range `area`.
    mode: "RGB", "L" (grey), "L16" (grey, uint16), or "auto": L16 if every picture has 16 bits, else L if every one is
    grey, else RGB. size: of the square images, in pixels; None: all pictures have one size and stay as they are.
    skip_broken: leave out files that cannot be read.
    Raises UserError for settings that do not exist.
    """

    mode: str
    size: int | None
    skip_broken: bool
    resize: str = "once"
    area: Sequence[float] | None = None  # [0.08, 1]
    workers: int = 0

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise UserError(f"data.image_size={self.size}; use pixels, as 64, or null where all images have one size")
        require(
            self.mode in MODES,
            f"data.mode={self.mode}; use RGB, L (grey) or auto (L when every image is grey), or L16 (16 bits of grey)",
        )
        require(self.resize in ("once", "each"), f"data.resize={self.resize}; use once or each")
        if self.resize == "once":
            require(self.area is None, f"data.resize_area={self.area} is for data.resize=each; leave it out")
            return
        require(self.size, "data.resize=each resizes pictures to data.image_size; use pixels, as 64")
        require(self.workers >= 0, f"data.resize_workers={self.workers}: use 0 (no processes) or more")
        is_range = self.area is None or (len(self.area) == 2 and 0 < self.area[0] <= self.area[1] <= 1)
        require(is_range, f"data.resize_area={self.area}: use [least, most], above 0, up to 1")

    @property
    def stored_size(self) -> int | None:
        """Pixels of the side of decoded pictures; None: their own."""
        return self.size if self.resize == "once" else None

    def pixel_mode(self, paths: list[str]) -> str:
        """The mode to decode these files in: auto becomes L16 or RGB."""
        mode = self.mode
        if mode == "auto":
            # headers are read up to the first of 8 bits: of most folders one
            mode = "L16" if all(has_16_bits(path) is not False for path in paths) else "RGB"
        if mode == "L16" and self.resize == "each":
            raise UserError("data.resize=each takes pictures of 8 bits; type data.mode=L, or data.resize=once for 16")
        return mode


def image_shape(paths: list[str], mode: str, size: int | None) -> tuple[int, int, int]:
    """(C, H, W) that all images will have: without a size, that of the first file that can be read.

    Raises UserError where no file can be read.
    """
    if size is not None:
        return (3 if mode == "RGB" else 1, size, size)
    errors = []
    for path in paths:
        try:
            return load_image(path, mode, None).shape
        except UserError as error:
            errors.append(str(error))
    raise _unreadable(errors, len(paths))


def decode_images(
    paths: list[str], mode: str, size: int | None, shape: tuple[int, int, int] | None, file: Path, skip_broken: bool
) -> tuple[bool, dict[int, str], list[tuple[int, int]]]:
    """Write all images to `file`, [N, C, H, W] of uint8, or of uint16 for mode "L16".

    shape: of all of them; None: each has its own, and the file is [pixels, C], the rows of one after the other.
    Gives whether all of them are grey, the files that cannot be read: what is wrong, by their place in `paths`, and
    the sizes (height, width) of the others, whose images are written. Raises UserError where some cannot be read and
    are not to be skipped (after all were tried), where none can be read, and where an image has another shape.
    """

    chunks = (range(i, min(i + CHUNK, len(paths))) for i in range(0, len(paths), CHUNK))
    decode = partial(_decode, paths, mode, size, shape)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    dtype = np.uint16 if mode == "L16" else np.uint8
    channels, is_grey, broken, sizes = 3 if mode == "RGB" else 1, True, {}, []
    with file.open("wb") as out, Progress(*columns, console=Console(stderr=True)) as progress:
        _write_header(out, (len(paths), *shape) if shape else (0, channels), dtype)
        task = progress.add_task("decoding images", total=len(paths))
        for images, errors in _map_in_threads(decode, chunks):
            sizes += [image.shape[1:] for image in images]
            # not through a memory map: on a full disk that would kill the process
            out.writelines(images if shape else [np.ascontiguousarray(image.transpose(1, 2, 0)) for image in images])
            is_grey = is_grey and all((image == image[:1]).all() for image in images)
            broken |= errors
            progress.advance(task, len(images) + len(errors))
        out.seek(0)  # NumPy leaves room in the header for any number of images, so that it does not change its length
        pixels = sum(height * width for height, width in sizes)
        _write_header(out, (len(sizes), *shape) if shape else (pixels, channels), dtype)
        out.flush()
        os.fsync(out.fileno())  # the caller renames the folder: after a power cut the new name must have its data
    if broken and (not skip_broken or len(broken) == len(paths)):
        raise _unreadable(list(broken.values()), len(paths))
    return is_grey, broken, sizes


def _decode(
    paths: list[str], mode: str, size: int | None, shape: tuple[int, int, int] | None, chunk: range
) -> tuple[list[np.ndarray], dict[int, str]]:
    """The images of paths[chunk] that can be read, and what is wrong with the others, by their places in `paths`."""
    images, errors = [], {}
    for i in chunk:
        try:
            image = load_image(paths[i], mode, size)
        except UserError as error:
            errors[i] = str(error)
            continue
        if shape and image.shape != shape:
            sizes = f"{paths[0]} is {shape[2]}x{shape[1]}, {paths[i]} is {image.shape[2]}x{image.shape[1]}"
            raise UserError(
                f"images differ in size (width x height): {sizes}; data=image_folder data.image_size=64 resizes all"
            )
        images.append(image)
    return images, errors


def drop_colour(file: Path) -> None:
    """Replace an array of grey images, uint8 [N, 3, ...], by [N, 1, ...] in the same file."""
    images = np.load(file, mmap_mode="r")
    grey_file = file.with_suffix(".grey")
    with grey_file.open("wb") as out:
        _write_header(out, (len(images), 1, *images.shape[2:]), np.uint8)
        out.writelines(np.ascontiguousarray(images[i : i + 1024, :1]) for i in range(0, len(images), 1024))
        os.fsync(out.fileno())
    del images  # Windows does not replace a file that is mapped
    os.replace(grey_file, file)


def _map_in_threads(function: Callable, items: Iterable) -> Iterator:
    """Results in the order of the items; at most four a thread wait in memory. Pillow decodes without the GIL."""
    workers = min(os.cpu_count() or 1, 8)
    waiting = deque()
    with ThreadPoolExecutor(workers) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _write_header(out: BinaryIO, shape: tuple[int, ...], dtype: type[np.integer]) -> None:
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(out, {"descr": descr, "fortran_order": False, "shape": shape})


def _unreadable(errors: list[str], total: int) -> UserError:
    more = f"; and {len(errors) - 3:,} more" if len(errors) > 3 else ""
    return UserError(
        f"{len(errors):,} of {total:,} images cannot be read; repair or remove them, or type data.skip_broken=true: "
        f"{'; '.join(errors[:3])}{more}"
    )
