"""Images decoded once, into a memory-mapped array that later runs, ranks and sweep jobs share."""

import hashlib
import json
import logging
import math
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from athanor.base.errors import UserError
from athanor.base.text import file_name
from athanor.data.sources.decode import Decoding, decode_images, drop_colour, image_shape
from athanor.data.sources.image_file import number_of_pixels
from athanor.data.sources.listing import File

log = logging.getLogger(__name__)

FORMAT = 2  # part of the cache's name; raise it when a change of the code decodes the same files to other pixels
_verified: set[Path] = set()  # caches whose checksum this process has compared


class Decoded(NamedTuple):
    """Decoded images in a file."""

    images: Tensor  # [N, C, H, W], uint8 or uint16, memory-mapped; of pictures that keep their size [pixels, C]
    file: Path
    sizes: np.ndarray | None  # int64 [N, 2] (height, width), where they keep their size
    broken: dict[int, str]  # what is wrong with each file that was left out, by its place among all


def cached(root: Path, files: list[File], decoding: Decoding, data_dir: Path) -> Decoded:
    """The images of these files, from `data_dir`/cache/<name>-<hash>/.

    Each root has a folder of its own, and in it one for each decoding, whose hash covers the paths, sizes and
    times of the files: a changed folder is decoded again. The pixels have a checksum, which each process verifies once;
    where they are damaged, the files are decoded again. What lies under its final name never changes, so that reading
    needs no lock, and the place may be read-only.
    Raises UserError where an image cannot be read or the disk has too little space.
    """
    resolved = root.resolve()
    place = data_dir / "cache" / f"{file_name(resolved.name)[:40]}-{_digest(str(resolved))}"
    kind = f"{decoding.mode}{'-skip' * decoding.skip_broken}"
    size = "each" if decoding.resize == "each" else decoding.size or "own"
    folder = place / f"{kind}-{size}-{_digest(repr((FORMAT, files)))}"
    contents = _read(folder)
    if contents is None:
        if folder.is_dir():
            log.warning("the decoded images in %s are damaged: they are decoded again", folder)
        with locked(place.parent, place.name):
            contents = _read(folder)  # another process may have built it while this one waited
            if contents is None:
                _build(root, files, decoding, folder)
                contents = _read(folder)
    if contents is None:
        raise UserError(f"{folder} is damaged again after it was written; check the disk, or set data_dir=<a folder>")
    return contents


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _read(folder: Path) -> Decoded | None:
    """What is in a cache; None where it does not exist or is not what was written."""
    file = folder / "images.npy"
    try:
        about = json.loads((folder / "about.json").read_text())
        if folder not in _verified:
            if about["crc32"] != _checksum(file):
                return None
            _verified.add(folder)
        # "c" is copy on write: torch warns about read-only arrays, and a write does not reach the file
        images = torch.from_numpy(np.load(file, mmap_mode="c"))
        sizes = np.array(about["sizes"]) if about.get("sizes") else None
        return Decoded(images, file, sizes, {int(i): problem for i, problem in about["broken"].items()})
    except (
        FileNotFoundError,
        NotADirectoryError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
    ):  # not of permission
        return None


def _checksum(file: Path) -> int:
    """CRC-32, which reads 5 GB/s where SHA-256 reads 1.7: it is to find damage, not deceit."""
    checksum = 0
    with file.open("rb") as contents:
        while block := contents.read(2**20):
            checksum = zlib.crc32(block, checksum)
    return checksum


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Make the folder and hold `folder`/<name>.lock, so that ranks and jobs do the same work only once.

    Raises UserError where the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{name}.lock").acquire()
    except OSError as error:
        raise UserError(f"cannot write in {folder} ({error}); set data_dir=<a folder you can write to>") from error
    with lock:
        yield


def _build(root: Path, files: list[File], decoding: Decoding, folder: Path) -> None:
    """Decode into `folder`; the caller holds the lock of the folder that it lies in."""
    paths = [os.path.join(root, path) for path, *_ in files]
    mode = decoding.pixel_mode(paths)
    own_sizes = decoding.resize == "each"
    shape = None if own_sizes else image_shape(paths, mode, decoding.size)
    partial = folder.with_name("partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        partial.mkdir(parents=True)
        if folder.is_dir():
            shutil.rmtree(folder)  # it is damaged; a process that reads it keeps the pages it has mapped
        may_drop = decoding.mode == "auto" and mode == "RGB"
        if own_sizes:
            size = sum(map(number_of_pixels, paths)) * (3 if mode == "RGB" else 1)
        else:
            size = len(files) * math.prod(shape) * (2 if mode == "L16" else 1)
        # dropping the colours writes a grey copy beside them
        _check_space(root, len(files), size * 4 // 3 if may_drop else size, folder)
        images = partial / "images.npy"
        stored = decode_images(paths, mode, decoding.stored_size, shape, images, decoding.skip_broken)
        is_grey, broken, sizes = stored
        if may_drop and is_grey:
            drop_colour(images)
        about = {"root": str(root), "crc32": _checksum(images), "broken": broken, "sizes": own_sizes and sizes}
        (partial / "about.json").write_text(json.dumps(about))
        os.replace(partial, folder)
    except OSError as error:
        error.filename = error.filename or str(partial)  # a full disk names no file
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    # Remove the caches of earlier states of this folder: without this, each edit of it would take the space of a copy.
    for other in folder.parent.glob(f"{folder.name.rpartition('-')[0]}-*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)


def _check_space(root: Path, count: int, needed: int, folder: Path) -> None:
    free = shutil.disk_usage(folder.parent).free
    sizes = f"{needed / 1e6:,.1f} MB ({free / 1e6:,.1f} MB free)"
    log.info("decoding %s images of %s once into %s: %s", f"{count:,}", root, folder, sizes)
    if needed > free:
        raise UserError(
            f"the decoded images of {root} need {sizes} in {folder.parent}; "
            "free some, set data_dir=<a folder on another disk>, or a smaller data.image_size with data.resize=once"
        )
