"""A person's own pictures, one folder a class."""

import logging
import os
from pathlib import Path

from torch import Tensor

from athanor.data.sources.cache import Tree, cached
from athanor.data.sources.image_file import is_image
from athanor.data.sources.source import Source
from athanor.data.split import stratified

log = logging.getLogger(__name__)


def image_folder(
    root: str | Path,
    image_size: int | None,
    mode: str,
    test_fraction: float,
    data_dir: str | Path,
    split_seed: int,
) -> Source:
    """`root`/train/<class>/ and `root`/test/<class>/, or `root`/<class>/, a stratified part of which is the test set.

    Each image's shorter side is resized to `image_size` pixels and the centre square cut out; with None the images
    stay as they are and must have one size. `mode` is RGB, L (grey), or auto: L when every image is grey.
    The order of the classes is that of their names as text ("10" before "2").
    """
    _check_knobs(image_size, mode, test_fraction)
    root = Path(root).expanduser().absolute()
    if not root.is_dir():
        raise FileNotFoundError(f"data.root={root} is not a folder; it must hold <class>/ folders, or train/ and test/")
    splits = _splits(root)
    tree = scan(root, splits)
    images, labels = cached(tree, mode, image_size, Path(data_dir).expanduser())
    if splits == ("train", "test"):
        parts, how = in_order(images, labels, tree.num_train), "its own train/ and test/"
    else:
        train, test = stratified(labels, test_fraction, split_seed)
        parts = (images[train], labels[train], images[test], labels[test])
        how = f"split with test_fraction={test_fraction}, split_seed={split_seed}"
    shape = "x".join(str(n) for n in images.shape[1:])
    origin = f"image folder {root}: {len(parts[0]):,} train and {len(parts[2]):,} test images of {shape}, {how}"
    return Source(*parts, class_names=tree.class_names, origin=origin)


def scan(root: Path, splits: tuple[str, ...]) -> Tree:
    """The images in the class folders of each split, train first; one split "" means that `root` itself has them."""
    class_names = _class_folders(root / splits[0])
    _check_classes(root, splits, class_names)
    files, labels, num_others, num_train = [], [], 0, 0
    for split in splits:
        for label, name in enumerate(class_names):
            found, others = _images_below(root / split / name, root)
            if not found:
                raise ValueError(f"no images in {root / split / name} ({others} other files); add some or remove it")
            files += found
            labels += [label] * len(found)
            num_others += others
        num_train = num_train or len(files)
    if num_others:
        log.info("ignored %s files in %s that are not images by their suffix", f"{num_others:,}", root)
    return Tree(root, class_names, files, labels, num_train)


def in_order(images: Tensor, labels: Tensor, num_train: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return images[:num_train], labels[:num_train], images[num_train:], labels[num_train:]


def _check_knobs(image_size: int | None, mode: str, test_fraction: float) -> None:
    if image_size is not None and image_size < 1:
        raise ValueError(f"data.image_size={image_size}; use pixels, as 64, or null where all images have one size")
    if mode not in ("RGB", "L", "auto"):
        raise ValueError(f"data.mode={mode}; use RGB, L (grey) or auto (L when every image is grey)")
    if not 0 < test_fraction < 1:
        raise ValueError(f"data.test_fraction={test_fraction}; use a number above 0 and below 1, as 0.2")


def _splits(root: Path) -> tuple[str, ...]:
    """("train", "test") if one of them holds class folders; a class may itself be called train."""
    there = [split for split in ("train", "test") if (root / split).is_dir() and _class_folders(root / split)]
    if not there:
        return ("",)
    if len(there) == 1:
        missing = "test" if there == ["train"] else "train"
        raise ValueError(f"{root / missing}/<class>/ is missing; add it, or put all classes directly into {root}")
    unread = [name for name in _class_folders(root) if name not in there]
    if unread:
        log.warning("%s: only train/ and test/ are read, not %s", root, ", ".join(f"{name}/" for name in unread))
    return ("train", "test")


def _class_folders(folder: Path) -> tuple[str, ...]:
    with os.scandir(folder) as entries:
        return tuple(sorted(e.name for e in entries if e.is_dir() and not e.name.startswith(".")))


def _check_classes(root: Path, splits: tuple[str, ...], class_names: tuple[str, ...]) -> None:
    folder = root / splits[0]
    if not class_names:
        raise ValueError(f"no class folders in {folder}; make one folder a class: {folder / '<class>' / '<image>'}")
    if len(class_names) == 1:
        raise ValueError(f"only one class folder, {class_names[0]}/, in {folder}; a classifier needs two or more")
    for split in splits:
        names = _class_folders(root / split)
        for has, lacks, odd in (("train", "test", class_names), ("test", "train", names)):
            odd = [name for name in odd if name not in class_names or name not in names]
            if odd:
                raise ValueError(f"{root}: {has}/ has classes that {lacks}/ lacks: {', '.join(odd[:5])}")
        for path in (root / split, *(root / split / name for name in names)):
            if path != root:
                _refuse_link(path, root)


def _images_below(folder: Path, root: Path) -> tuple[list[tuple[str, int, int]], int]:
    """(path below root, bytes, mtime in ns) of each image, sorted, and the number of other files."""
    found, others, pending = [], 0, [str(folder)]
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
                    found.append((entry.path[prefix:], stat.st_size, stat.st_mtime_ns))
                else:
                    others += 1
    return sorted(found), others


def _refuse_link(path: str | Path, root: Path) -> None:
    """Links to folders are refused as well: they can go round in a circle, or count a class twice."""
    if os.path.islink(path) and (os.path.isdir(path) or not Path(path).resolve().is_relative_to(root.resolve())):
        raise ValueError(f"{path} is a link to {os.path.realpath(path)}; links to folders or out of {root} are refused")
