"""Decode many image files in threads into one .npy file."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from athanor.data.sources.image_file import load_image

CHUNK = 32  # images a task: with one 32x32 image a task, the queue takes as long as the decoding


def image_shape(paths: list[str], mode: str, size: int | None) -> tuple[int, int, int]:
    """(C, H, W) that all images will have: that of the first readable one where no size is asked for."""
    if size is not None:
        return (1 if mode == "L" else 3, size, size)
    broken = []
    for path in paths:
        try:
            return load_image(path, mode, None).shape
        except ValueError as error:
            broken.append(str(error))
    raise _unreadable(broken, len(paths))


def decode_images(paths: list[str], mode: str, size: int | None, shape: tuple[int, int, int], file: Path) -> bool:
    """Write all images to `file`, uint8 [N, C, H, W], and say whether all of them are grey."""

    def decode(chunk: list[str]) -> tuple[list[np.ndarray], list[str]]:
        images, broken = [], []
        for path in chunk:
            try:
                image = load_image(path, mode, size)
            except (ValueError, FileNotFoundError) as error:
                broken.append(str(error))
                continue
            if image.shape != shape:
                raise _mixed_sizes(paths[0], shape, path, image.shape)
            images.append(image)
        return images, broken

    chunks = (paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK))
    grey, all_broken = True, []
    with file.open("wb") as out, _progress() as progress:
        _write_header(out, (len(paths), *shape))
        task = progress.add_task("decoding images", total=len(paths))
        for images, broken in _map_in_threads(decode, chunks):
            out.writelines(images)  # not through a memory map, where a full disk kills the process without a word
            grey = grey and all((image == image[:1]).all() for image in images)
            all_broken += broken
            progress.advance(task, len(images) + len(broken))
        os.fsync(out.fileno())  # the caller renames the folder: a power cut must not leave the name without the data
    if all_broken:
        raise _unreadable(all_broken, len(paths))
    return grey


def drop_colour(file: Path) -> None:
    """Replace uint8 [N, 3, H, W] of grey images, in place, by [N, 1, H, W]."""
    images = np.load(file, mmap_mode="r")
    grey = file.with_suffix(".grey")
    with grey.open("wb") as out:
        _write_header(out, (len(images), 1, *images.shape[2:]))
        out.writelines(np.ascontiguousarray(images[i : i + 1024, :1]) for i in range(0, len(images), 1024))
        os.fsync(out.fileno())
    del images  # Windows does not replace a file that is mapped
    os.replace(grey, file)


def _map_in_threads(function: Callable, items: Iterable) -> Iterator:
    """Results in order, with no more than a few waiting in memory; Pillow decodes without holding the GIL."""
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


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


def _unreadable(broken: list[str], total: int) -> ValueError:
    more = f"; and {len(broken) - 3:,} more" if len(broken) > 3 else ""
    return ValueError(
        f"{len(broken):,} of {total:,} images cannot be read; repair or remove them: {'; '.join(broken[:3])}{more}"
    )


def _mixed_sizes(path: str, shape: tuple[int, ...], other: str, other_shape: tuple[int, ...]) -> ValueError:
    def sized(name: str, shape: tuple[int, ...]) -> str:
        return f"{name} is {shape[2]}x{shape[1]}"

    return ValueError(
        f"images differ in size (width x height): {sized(path, shape)}, {sized(other, other_shape)}; "
        "data=image_folder data.image_size=64 resizes all"
    )
