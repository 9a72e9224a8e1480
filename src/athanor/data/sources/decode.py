"""Decodes many image files, in threads, into one .npy file."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from athanor.base.errors import UserError
from athanor.data.sources.image_file import load_image

CHUNK = 32  # images a task: with one 32x32 image a task, handing tasks to threads takes as long as decoding


def image_shape(paths: list[str], mode: str, size: int | None) -> tuple[int, int, int]:
    """(C, H, W) that all images will have: without a size, that of the first file that can be read.

    Raises UserError where no file can be read.
    """
    if size is not None:
        return (1 if mode == "L" else 3, size, size)
    errors = []
    for path in paths:
        try:
            return load_image(path, mode, None).shape
        except UserError as error:
            errors.append(str(error))
    raise _unreadable(errors, len(paths))


def decode_images(paths: list[str], mode: str, size: int | None, shape: tuple[int, int, int], file: Path) -> bool:
    """Write all images to `file`, uint8 [N, C, H, W]; gives whether all of them are grey.

    Raises UserError where a file cannot be read (after all were tried) or an image has another shape.
    """

    def decode(chunk: list[str]) -> tuple[list[np.ndarray], list[str]]:
        images, errors = [], []
        for path in chunk:
            try:
                image = load_image(path, mode, size)
            except UserError as error:
                errors.append(str(error))
                continue
            if image.shape != shape:
                sizes = f"{paths[0]} is {shape[2]}x{shape[1]}, {path} is {image.shape[2]}x{image.shape[1]}"
                raise UserError(
                    f"images differ in size (width x height): {sizes}; data=image_folder data.image_size=64 resizes all"
                )
            images.append(image)
        return images, errors

    chunks = (paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    is_grey, all_errors = True, []
    with file.open("wb") as out, Progress(*columns, console=Console(stderr=True)) as progress:
        _write_header(out, (len(paths), *shape))
        task = progress.add_task("decoding images", total=len(paths))
        for images, errors in _map_in_threads(decode, chunks):
            out.writelines(images)  # not through a memory map: on a full disk that would kill the process
            is_grey = is_grey and all((image == image[:1]).all() for image in images)
            all_errors += errors
            progress.advance(task, len(images) + len(errors))
        os.fsync(out.fileno())  # the caller renames the folder: after a power cut the new name must have its data
    if all_errors:
        raise _unreadable(all_errors, len(paths))
    return is_grey


def drop_colour(file: Path) -> None:
    """Replace an array of grey images, uint8 [N, 3, H, W], by [N, 1, H, W] in the same file."""
    images = np.load(file, mmap_mode="r")
    grey_file = file.with_suffix(".grey")
    with grey_file.open("wb") as out:
        _write_header(out, (len(images), 1, *images.shape[2:]))
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


def _write_header(out: BinaryIO, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _unreadable(errors: list[str], total: int) -> UserError:
    more = f"; and {len(errors) - 3:,} more" if len(errors) > 3 else ""
    return UserError(
        f"{len(errors):,} of {total:,} images cannot be read; repair or remove them: {'; '.join(errors[:3])}{more}"
    )
