"""Images decoded once, into a memory-mapped array that later runs, ranks and sweep jobs share."""

import hashlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from athanor.base.errors import UserError
from athanor.data.sources.decode import decode_images, drop_colour, image_shape

log = logging.getLogger(__name__)

FORMAT = 1  # part of the cache's name; raise it when a change of the code decodes the same files to other pixels


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
    The hash covers the paths, sizes and times of the files, so a changed folder is decoded again. A folder that has
    its final name never changes, so reading it needs no lock.
    Raises UserError where an image cannot be read or the disk has too little space.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", tree.root.name) or "images"
    key = repr((FORMAT, mode, size, tree.files)).encode("utf-8", "surrogateescape")
    folder = data_dir / "cache" / f"{name}-{hashlib.sha256(key).hexdigest()[:16]}"
    if not folder.is_dir():
        with locked(folder.parent, name):
            if not folder.is_dir():  # another process may have built it while this one waited
                _build(tree, mode, size, folder, name)
    # "c" is copy on write: torch warns about read-only arrays, and a write does not reach the file
    images = np.load(folder / "images.npy", mmap_mode="c")
    return torch.from_numpy(images), torch.from_numpy(np.load(folder / "labels.npy"))


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


def _build(tree: Tree, mode: str, size: int | None, folder: Path, name: str) -> None:
    for partial in folder.parent.glob(f"{name}-*.partial"):
        shutil.rmtree(partial)  # of a process that was killed: this one holds the lock of the name
    paths = [os.path.join(tree.root, path) for path, *_ in tree.files]
    pixel_mode = "RGB" if mode == "auto" else mode
    shape = image_shape(paths, pixel_mode, size)
    _check_space(tree, math.prod(shape) * len(paths), mode, folder)
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir()
    try:
        is_grey = decode_images(paths, pixel_mode, size, shape, partial / "images.npy")
        if mode == "auto" and is_grey:
            drop_colour(partial / "images.npy")
        np.save(partial / "labels.npy", np.array(tree.labels, np.int64))
        about = {"root": str(tree.root), "mode": mode, "size": size, "key": folder.name, "classes": tree.class_names}
        (partial / "about.json").write_text(json.dumps(about, indent=1))
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    # Remove the caches of earlier states of this folder: without this, each edit of it would take the space of a copy.
    for file in folder.parent.glob(f"{name}-*/about.json"):
        other = json.loads(file.read_text())
        if file.parent != folder and all(other[key] == about[key] for key in ("root", "mode", "size")):
            shutil.rmtree(file.parent, ignore_errors=True)  # a process that reads it keeps the pages it has mapped


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
