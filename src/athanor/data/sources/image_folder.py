"""A person's own pictures, one folder for each class."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from athanor.base.errors import UserError, require
from athanor.data.sources.csv_file import CsvFile
from athanor.data.sources.decode import Decoding
from athanor.data.sources.listing import Listing, folder_names
from athanor.data.sources.pictures import PARTS, Pictures, source_of
from athanor.data.sources.source import Source

log = logging.getLogger(__name__)


def image_folder(
    root: str | Path,
    splits: str | Path | None,
    val_is: Literal["val", "test"],
    test_fraction: float,
    image_size: int | None,
    mode: str,
    skip_broken: bool,
    follow_links: bool,
    resize: Literal["once", "each"],
    resize_area: list[float] | None,
    resize_workers: int,
    data_dir: str | Path,
    split_seed: int,
) -> Source:
    """`root`/train/<class>/ with val/<class>/, test/<class>/ or both, or `root`/<class>/.

    val/ is the validation set, or with val_is="test" the test set. Where no picture is for test, a stratified part of
    those for training is. splits, only for `root`/<class>/: a CSV file with the columns file (a path below `root`) and
    split (train, val or test).
    Each image's shorter side is resized to `image_size` pixels and the centre square cut out; with None the images
    stay as they are and must have one size. skip_broken: leave out files that cannot be read. mode, resize,
    resize_area, resize_workers: see Decoding. follow_links: to folders, and out of `root`. The order of the classes is
    that of their names as text ("10" before "2"). Raises UserError for wrong settings, folders without images, and
    images that cannot be read.
    """
    decoding = Decoding(mode, image_size, skip_broken, resize, resize_area, resize_workers)
    root = Path(root).expanduser().absolute()
    require(root.is_dir(), f"data.root={root} is not a folder; it must hold <class>/ folders, or train/ and test/")
    folders = _folders(root, val_is)
    pictures = scan(Listing(root, follow_links), folders)
    if splits is not None:
        if folders != {"": "train"}:
            raise UserError(f"data.splits={splits}: {root} has folders of splits already; use data.splits=null")
        table = CsvFile.read(splits, "data.splits")
        rows = table.rows_of(pictures.files, root, "file", "data.splits: column")
        pictures = replace(pictures, parts=table.parts("split", "data.splits: column")[rows].where(rows >= 0, -1))
    return source_of(pictures, decoding, test_fraction, split_seed, data_dir)


def scan(listing: Listing, folders: dict[str, str]) -> Pictures:
    """The images in the class folders of each of `folders`, train first, and the part that each is for.

    The folder "" means class folders in the root.
    """
    root, first = listing.root, next(iter(folders))
    class_names = listing.folders(root / first)
    _check_classes(listing, list(folders), class_names)
    files, labels, parts = [], [], []
    for folder, part in folders.items():
        for label, name in enumerate(class_names):
            before = listing.num_others
            images = listing.pictures(root / folder / name)
            others = f"{listing.num_others - before} other files"
            require(images, f"no images in {root / folder / name} ({others}); add some or remove it")
            files += images
            labels += [label] * len(images)
            parts += [PARTS.index(part)] * len(images)
    if listing.num_others:
        log.info("ignored %s files in %s that are not images by their suffix", f"{listing.num_others:,}", root)
    return Pictures(root, files, torch.tensor(labels), torch.tensor(parts), class_names)


def _folders(root: Path, val_is: Literal["val", "test"]) -> dict[str, str]:
    """The folders to read, and what each is for; {"": "train"} where the classes lie in `root` itself.

    A class may itself be called train, so what counts is that there are folders in it.
    """
    present = [name for name in PARTS if (root / name).is_dir() and folder_names(root / name)]
    if val_is == "test":
        require(present == ["train", "val"], f"data.val_is=test: {root} needs train/ and val/ and no test/")
        return {"train": "train", "val": "test"}
    if present in ([], ["val"]):
        return {"": "train"}
    missing = "train" if "train" not in present else "test" if present == ["train"] else None
    if missing:
        add = "add it or val/<class>/" if missing == "test" else "add it"
        raise UserError(f"{root / missing}/<class>/ is missing; {add}, or put all classes directly into {root}")
    if unread := [name for name in folder_names(root) if name not in present]:
        names = ", ".join(f"{name}/" for name in unread)
        log.warning("%s: only %s are read, not %s", root, " and ".join(f"{name}/" for name in present), names)
    return {name: name for name in present}


def _check_classes(listing: Listing, folders: list[str], class_names: tuple[str, ...]) -> None:
    root = listing.root
    folder = root / folders[0]
    require(class_names, f"no class folders in {folder}; make one folder a class: {folder / '<class>' / '<image>'}")
    if len(class_names) == 1:
        raise UserError(f"only one class folder, {class_names[0]}/, in {folder}; a classifier needs two or more")
    for split in folders[1:]:
        names = listing.folders(root / split)
        if missing := [name for name in class_names if name not in names]:
            raise UserError(f"{root}: train/ has classes that {split}/ lacks: {', '.join(missing[:5])}")
        if extra := [name for name in names if name not in class_names]:
            raise UserError(f"{root}: {split}/ has classes that train/ lacks: {', '.join(extra[:5])}")
