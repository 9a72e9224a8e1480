"""A person's own pictures, one folder for each class."""

import logging
import os
from pathlib import Path

from athanor.base.errors import UserError, require
from athanor.data.sources.cache import Tree, cached
from athanor.data.sources.image_file import is_image
from athanor.data.sources.source import Source
from athanor.data.split import stratified

log = logging.getLogger(__name__)


def image_folder(
    root: str | Path, image_size: int | None, mode: str, test_fraction: float, data_dir: str | Path, split_seed: int
) -> Source:
    """`root`/train/<class>/ and `root`/test/<class>/, or `root`/<class>/, a stratified part of which is the test set.

    Each image's shorter side is resized to `image_size` pixels and the centre square cut out; with None the images
    stay as they are and must have one size. `mode` is RGB, L (grey), or auto: L when every image is grey.
    The order of the classes is that of their names as text ("10" before "2").
    Raises UserError for wrong settings, folders without images, and images that cannot be read.
    """
    if image_size is not None and image_size < 1:
        raise UserError(f"data.image_size={image_size}; use pixels, as 64, or null where all images have one size")
    require(mode in ("RGB", "L", "auto"), f"data.mode={mode}; use RGB, L (grey) or auto (L when every image is grey)")
    require(0 < test_fraction < 1, f"data.test_fraction={test_fraction}; use a number above 0 and below 1, as 0.2")
    root = Path(root).expanduser().absolute()
    require(root.is_dir(), f"data.root={root} is not a folder; it must hold <class>/ folders, or train/ and test/")
    splits = _splits(root)
    tree = scan(root, splits)
    images, labels = cached(tree, mode, image_size, Path(data_dir).expanduser())
    if splits == ("train", "test"):
        parts, how = tree.parts(images, labels), "its own train/ and test/"
    else:
        train, test = stratified(labels, test_fraction, split_seed)
        parts = (images[train], labels[train], images[test], labels[test])
        how = f"split with test_fraction={test_fraction}, split_seed={split_seed}"
    shape = "x".join(str(n) for n in images.shape[1:])
    origin = f"image folder {root}: {len(parts[0]):,} train and {len(parts[2]):,} test images of {shape}, {how}"
    return Source(*parts, class_names=tree.class_names, origin=origin)


def scan(root: Path, splits: tuple[str, ...]) -> Tree:
    """The images in the class folders of each split, train first; the one split "" means class folders in `root`."""
    class_names = _class_folders(root / splits[0])
    _check_classes(root, splits, class_names)
    files, labels, num_others, num_train = [], [], 0, 0
    for split in splits:
        for label, name in enumerate(class_names):
            images, others = _images_below(root / split / name, root)
            require(images, f"no images in {root / split / name} ({others} other files); add some or remove it")
            files += images
            labels += [label] * len(images)
            num_others += others
        num_train = num_train or len(files)
    if num_others:
        log.info("ignored %s files in %s that are not images by their suffix", f"{num_others:,}", root)
    return Tree(root, class_names, files, labels, num_train)


def _splits(root: Path) -> tuple[str, ...]:
    """("train", "test") if one of them holds class folders, else (""); a class may itself be called train."""
    splits = [split for split in ("train", "test") if (root / split).is_dir() and _class_folders(root / split)]
    if not splits:
        return ("",)
    if len(splits) == 1:
        missing = "test" if splits == ["train"] else "train"
        raise UserError(f"{root / missing}/<class>/ is missing; add it, or put all classes directly into {root}")
    unread = [name for name in _class_folders(root) if name not in splits]
    if unread:
        log.warning("%s: only train/ and test/ are read, not %s", root, ", ".join(f"{name}/" for name in unread))
    return ("train", "test")


def _class_folders(folder: Path) -> tuple[str, ...]:
    with os.scandir(folder) as entries:
        return tuple(sorted(e.name for e in entries if e.is_dir() and not e.name.startswith(".")))


def _check_classes(root: Path, splits: tuple[str, ...], class_names: tuple[str, ...]) -> None:
    folder = root / splits[0]
    require(class_names, f"no class folders in {folder}; make one folder a class: {folder / '<class>' / '<image>'}")
    if len(class_names) == 1:
        raise UserError(f"only one class folder, {class_names[0]}/, in {folder}; a classifier needs two or more")
    for split in splits:
        names = _class_folders(root / split)
        if missing := [name for name in class_names if name not in names]:
            raise UserError(f"{root}: train/ has classes that test/ lacks: {', '.join(missing[:5])}")
        if extra := [name for name in names if name not in class_names]:
            raise UserError(f"{root}: test/ has classes that train/ lacks: {', '.join(extra[:5])}")
        for path in (root / split, *(root / split / name for name in names)):
            if path != root:
                _refuse_link(path, root)


def _images_below(folder: Path, root: Path) -> tuple[list[tuple[str, int, int]], int]:
    """(path below root, bytes, mtime in ns) of each image, sorted, and the number of other files."""
    images, num_others, pending = [], 0, [str(folder)]
    prefix = len(os.path.join(root, ""))
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink():
                    _refuse_link(entry.path, root)
                if entry.is_dir():
                    pending.append(entry.path)
                elif is_image(entry.name) and entry.is_file():
                    stat = entry.stat()
                    images.append((entry.path[prefix:], stat.st_size, stat.st_mtime_ns))
                else:
                    num_others += 1
    return sorted(images), num_others


def _refuse_link(path: str | Path, root: Path) -> None:
    """Links to folders are refused as well: they can lead around in a circle, or count a class twice."""
    if os.path.islink(path) and (os.path.isdir(path) or not Path(path).resolve().is_relative_to(root.resolve())):
        raise UserError(f"{path} is a link to {os.path.realpath(path)}; links to folders or out of {root} are refused")
