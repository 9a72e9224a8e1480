"""From picture files, each with a target and the part that it belongs to, to a source."""

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from athanor.base.errors import require
from athanor.data.sources.cache import Decoded, cached
from athanor.data.sources.decode import Decoding
from athanor.data.sources.listing import File
from athanor.data.sources.own_size import OwnSizes, PictureItems
from athanor.data.sources.source import Source
from athanor.data.split import split
from athanor.data.streamed import Items

log = logging.getLogger(__name__)

PARTS = ("train", "val", "test")
AREA = (0.08, 1)  # of random windows, as Szegedy et al. 2015 take for ImageNet


@dataclass(frozen=True)
class Pictures:
    """Picture files below `root`, and of each its target, [N] or [N, K], and the number of its part in PARTS, [N].

    Pictures of part -1 are decoded and not used, so that another choice among them decodes nothing again.
    """

    root: Path
    files: list[File]
    targets: Tensor
    parts: Tensor
    class_names: tuple[str, ...]
    groups: Tensor | None = None  # int64 [N]; those of one group are not split


def source_of(
    pictures: Pictures, decoding: Decoding, test_fraction: float, split_seed: int, data_dir: str | Path
) -> Source:
    """The source of these pictures. Where none of them are for test, `test_fraction` of those for training are."""
    require(0 < test_fraction < 1, f"data.test_fraction={test_fraction}; use a number above 0 and below 1, as 0.2")
    decoded = cached(pictures.root, pictures.files, decoding, Path(data_dir).expanduser())
    broken = decoded.broken
    kept = torch.tensor([i for i in range(len(pictures.files)) if i not in broken])
    targets, parts = pictures.targets[kept], pictures.parts[kept]
    groups = None if pictures.groups is None else pictures.groups[kept]
    train, val, test = ((parts == number).nonzero().flatten() for number in range(len(PARTS)))
    require(len(train), f"{pictures.root}: no pictures for training")
    given = " and ".join(name for name, index in (("validation", val), ("test", test)) if len(index))
    how = [f"{given} as given"] if given else []
    if not len(test):
        how.append(f"test drawn from train with test_fraction={test_fraction}, split_seed={split_seed}")
        drawn = split(targets[train], float(test_fraction), split_seed, None if groups is None else groups[train])
        train, test = (train[index] for index in drawn)
        require(len(test), f"{pictures.root}: no class has the two pictures that a test set needs; add some")
    if broken:
        how.append(f"{len(broken):,} broken files left out")
        first = "; ".join(list(broken.values())[:3])
        log.warning("left out %s of %s files that cannot be read: %s%s", f"{len(broken):,}", f"{len(pictures.files):,}",
                    first, f"; and {len(broken) - 3:,} more" if len(broken) > 3 else "")  # fmt: skip
    middle = f", {len(val):,} validation and" if len(val) else " and"
    inputs = {
        name: taken(decoded, decoding, targets, index, name)
        for name, index in {"train": train, "test": test, "val": val}.items()
        if len(index)
    }
    shape = "x".join(str(n) for n in inputs["train"].shape[1:])
    own = ", kept at their own size" * (decoded.sizes is not None)
    counts = f"{len(train):,} train{middle} {len(test):,} test images of {shape}{own}"
    origin = f"image folder {pictures.root}: {counts}; {', '.join(how)}"
    log.info(origin)
    arrays = inputs["train"], targets[train], inputs["test"], targets[test]
    val_arrays = (inputs["val"], targets[val]) if len(val) else (None, None)
    groups = None if groups is None else groups[train]
    return Source(*arrays, pictures.class_names, origin, *val_arrays, groups)


def taken(decoded: Decoded, decoding: Decoding, targets: Tensor, index: Tensor, name: str) -> Tensor | Items:
    """The decoded images of a sorted index; a view, which stays memory-mapped, where the index is a range. Of pictures
    that keep their size, what reads them.
    """
    if decoded.sizes is not None:
        own = partial(OwnSizes, decoded.file, decoded.sizes, index, targets[index], decoding.size)
        windows = own(decoding.area or AREA) if name == "train" else None
        return PictureItems(own(None), name, decoding.workers, training=windows)
    first, last = index[0].item(), index[-1].item()
    return decoded.images[first : last + 1] if last - first + 1 == len(index) else decoded.images[index]
