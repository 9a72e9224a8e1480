"""CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 colour images of 32x32 pixels in 10 classes."""

import os
from pathlib import Path

from athanor.base.errors import UserError, require
from athanor.data.sources.cache import cached
from athanor.data.sources.cifar import Official, images_and_labels
from athanor.data.sources.decode import Decoding
from athanor.data.sources.image_file import load_image
from athanor.data.sources.image_folder import scan
from athanor.data.sources.listing import Listing
from athanor.data.sources.source import Source

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
COUNTS = (50_000, 10_000)  # train, test
# These are torchvision's, whose import would take a second. The last batch is the test set.
MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
OFFICIAL = Official(
    "CIFAR-10", "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", "cifar-10-batches-py", MD5
)


def cifar10(data_dir: str | Path) -> Source:
    """From the official batches or their archive, else `data_dir`/cifar10/{train,test}/<class>/, else a download."""
    data_dir = Path(data_dir).expanduser()
    if (data_dir / "cifar10").is_dir() and not OFFICIAL.lies_in(data_dir):
        return _read_folder(data_dir / "cifar10", data_dir)
    *train, test = OFFICIAL.read(data_dir, " or the images as cifar10/train/<class>/ and cifar10/test/<class>/,")
    parts = (*images_and_labels(train, "labels"), *images_and_labels([test], "labels"))
    origin = f"CIFAR-10, official batches in {data_dir / OFFICIAL.folder}, checksums verified"
    return Source(*parts, CLASSES, origin)


def _read_folder(folder: Path, data_dir: Path) -> Source:
    missing = [f"{split}/" for split in ("train", "test") if not (folder / split).is_dir()]
    require(not missing, f"{' and '.join(missing)} missing in {folder}; it must hold train/<class>/, test/<class>/")
    pictures = scan(Listing(folder, follow_links=False), {"train": "train", "test": "test"})
    if pictures.class_names != CLASSES:
        raise UserError(f"{folder} has classes {', '.join(pictures.class_names)}; CIFAR-10 has {', '.join(CLASSES)}")
    train = int((pictures.parts == 0).sum())  # they come first
    counts = (train, len(pictures.files) - train)
    if counts != COUNTS:
        raise UserError(
            f"{folder} has {counts[0]:,} train and {counts[1]:,} test images; "
            f"CIFAR-10 has {COUNTS[0]:,} and {COUNTS[1]:,}: copy the missing, remove others"
        )
    first = folder / pictures.files[0][0]
    _, height, width = load_image(first, "RGB", None).shape
    # checked before decoding, which takes time and disk space
    require((height, width) == (32, 32), f"{first} is {width}x{height}; CIFAR-10 is 32x32: copy the original images")
    images = cached(folder, pictures.files, Decoding("RGB", None, skip_broken=False), data_dir).images
    kinds = ", ".join(sorted({os.path.splitext(path)[1] for path, *_ in pictures.files}))
    origin = f"CIFAR-10, folder of {kinds} images {folder} (not the official batches: no checksums)"
    labels = pictures.targets
    return Source(images[:train], labels[:train], images[train:], labels[train:], CLASSES, origin)
