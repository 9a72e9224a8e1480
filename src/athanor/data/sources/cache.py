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

from athanor.data.sources.decode import decode_images, drop_colour, image_shape

log = logging.getLogger(__name__)

FORMAT = 1  # part of the key; raise it when the same files come to decode to other pixels


@dataclass(frozen=True)
class Tree:
    """Image files in class folders: (path below root, bytes, mtime in ns) and a label each; test files come last."""

    root: Path
    class_names: tuple[str, ...]
    files: list[tuple[str, int, int]]
    labels: list[int]
    num_train: int


def cached(tree: Tree, mode: str, size: int | None, data_dir: Path) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, C, H, W], memory-mapped, and labels int64 [N], from `data_dir`/cache/<name>-<hash>/.

    `mode` is "RGB", "L", or "auto": L when every image is grey. The hash covers the files' paths, sizes and times, so
    a changed folder is decoded anew. What has its final name never changes: reading it needs no lock.
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
    """Hold `folder`/<name>.lock so that ranks and jobs do the work once; the folder is made."""
    lock = FileLock(folder / f"{name}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise ValueError(f"cannot write in {folder} ({error}); set data_dir=<a folder you can write to>") from error
    try:
        yield
    finally:
        lock.release()


def _build(tree: Tree, mode: str, size: int | None, folder: Path, name: str) -> None:
    for left in folder.parent.glob(f"{name}-*.partial"):
        shutil.rmtree(left)  # of a killed process: this one holds the lock of the name
    paths = [os.path.join(tree.root, path) for path, *_ in tree.files]
    pixel_mode = "RGB" if mode == "auto" else mode
    shape = image_shape(paths, pixel_mode, size)
    _check_space(tree, math.prod(shape) * len(paths), mode, folder)
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir()
    try:
        grey = decode_images(paths, pixel_mode, size, shape, partial / "images.npy")
        if mode == "auto" and grey:
            drop_colour(partial / "images.npy")
        np.save(partial / "labels.npy", np.array(tree.labels, np.int64))
        about = {"root": str(tree.root), "mode": mode, "size": size, "key": folder.name, "classes": tree.class_names}
        (partial / "about.json").write_text(json.dumps(about, indent=1))
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _remove_outdated(about, folder, name)


def _check_space(tree: Tree, num_bytes: int, mode: str, folder: Path) -> None:
    need = num_bytes * 4 // 3 if mode == "auto" else num_bytes  # auto may write a grey copy beside the colours
    free = shutil.disk_usage(folder.parent).free
    sizes = f"{need / 1e6:,.1f} MB ({free / 1e6:,.1f} MB free)"
    log.info("decoding %s images of %s once into %s: %s", f"{len(tree.files):,}", tree.root, folder, sizes)
    if need > free:
        raise ValueError(
            f"the decoded images of {tree.root} need {sizes} in {folder.parent}; "
            "free some, set data_dir=<a folder on another disk>, or a smaller data.image_size"
        )


def _remove_outdated(about: dict, folder: Path, name: str) -> None:
    """Remove earlier states of the same folder, or every edit of it would cost the disk another copy."""
    for file in folder.parent.glob(f"{name}-*/about.json"):
        other = json.loads(file.read_text())
        if file.parent != folder and all(other[key] == about[key] for key in ("root", "mode", "size")):
            shutil.rmtree(file.parent, ignore_errors=True)  # who still reads it keeps the mapped pages
