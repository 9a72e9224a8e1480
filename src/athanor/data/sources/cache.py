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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from athanor.base.errors import UserError
from athanor.base.text import file_name
from athanor.data.sources.decode import decode_images, drop_colour, image_shape

log = logging.getLogger(__name__)

FORMAT = 1  # part of the cache's name; raise it when a change of the code decodes the same files to other pixels
_verified: set[Path] = set()  # caches whose checksum this process has compared


@dataclass(frozen=True)
class Tree:
    """The image files in the class folders below `root`, those of the test set last, and a label for each."""

    root: Path
    class_names: tuple[str, ...]
    files: list[tuple[str, int, int]]  # path below root, size in bytes, modification time in ns
    labels: list[int]  # index into class_names
    num_train: int

    def parts(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Train images and labels, test images and labels."""
        return images[: self.num_train], labels[: self.num_train], images[self.num_train :], labels[self.num_train :]


def cached(tree: Tree, mode: str, size: int | None, data_dir: Path) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, C, H, W], memory-mapped, and labels int64 [N], from `data_dir`/cache/<name>-<hash>/.

    mode: "RGB", "L" (grey), or "auto": L if every image is grey. size: of the square images, in pixels.
    Each root has a folder of its own, and in it one for each mode and size, whose hash covers the paths, sizes and
    times of the files: a changed folder is decoded again. The pixels have a checksum, which each process verifies once;
    where they are damaged, the files are decoded again. What lies under its final name never changes, so that reading
    needs no lock, and the place may be read-only.
    Raises UserError where an image cannot be read or the disk has too little space.
    """
    root = tree.root.resolve()
    place = data_dir / "cache" / f"{file_name(root.name)[:40]}-{_digest(str(root))}"
    folder = place / f"{mode}-{size or 'own'}-{_digest(repr((FORMAT, tree.files)))}"
    images = _read(folder)
    if images is None:
        if folder.is_dir():
            log.warning("the decoded images in %s are damaged: they are decoded again", folder)
        with locked(place.parent, place.name):
            images = _read(folder)  # another process may have built it while this one waited
            if images is None:
                _build(tree, mode, size, folder)
                images = _read(folder)
    if images is None:
        raise UserError(f"{folder} is damaged again after it was written; check the disk, or set data_dir=<a folder>")
    return torch.from_numpy(images), torch.tensor(tree.labels)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _read(folder: Path) -> np.ndarray | None:
    """The images of a cache, memory-mapped; None where it does not exist or is not what was written."""
    file = folder / "images.npy"
    try:
        if folder not in _verified:
            if json.loads((folder / "about.json").read_text())["crc32"] != _checksum(file):
                return None
            _verified.add(folder)
        # "c" is copy on write: torch warns about read-only arrays, and a write does not reach the file
        return np.load(file, mmap_mode="c")
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError):  # not of permission
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


def _build(tree: Tree, mode: str, size: int | None, folder: Path) -> None:
    """Decode into `folder`; the caller holds the lock of the folder that it lies in."""
    paths = [os.path.join(tree.root, path) for path, *_ in tree.files]
    pixel_mode = "RGB" if mode == "auto" else mode
    shape = image_shape(paths, pixel_mode, size)
    partial = folder.with_name("partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        partial.mkdir(parents=True)
        if folder.is_dir():
            shutil.rmtree(folder)  # it is damaged; a process that reads it keeps the pages it has mapped
        _check_space(tree, math.prod(shape) * len(paths), mode, folder)
        is_grey = decode_images(paths, pixel_mode, size, shape, partial / "images.npy")
        if mode == "auto" and is_grey:
            drop_colour(partial / "images.npy")
        about = {"root": str(tree.root), "classes": tree.class_names, "crc32": _checksum(partial / "images.npy")}
        (partial / "about.json").write_text(json.dumps(about, indent=1))
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


def _check_space(tree: Tree, num_bytes: int, mode: str, folder: Path) -> None:
    needed = num_bytes * 4 // 3 if mode == "auto" else num_bytes  # auto may write a grey copy beside the colours
    free = shutil.disk_usage(folder.parent).free
    sizes = f"{needed / 1e6:,.1f} MB ({free / 1e6:,.1f} MB free)"
    log.info("decoding %s images of %s once into %s: %s", f"{len(tree.files):,}", tree.root, folder, sizes)
    if needed > free:
        raise UserError(
            f"the decoded images of {tree.root} need {sizes} in {folder.parent}; "
            "free some, set data_dir=<a folder on another disk>, or a smaller data.image_size"
        )
