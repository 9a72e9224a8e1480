"""CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 colour images of 32x32 pixels in 10 classes."""

import hashlib
import os
import pickle
import tarfile
import tempfile
import warnings
from functools import partial
from pathlib import Path

import torch

from athanor.base.errors import UserError, require
from athanor.data.sources.cache import cached, locked
from athanor.data.sources.decode import Decoding
from athanor.data.sources.download import downloading
from athanor.data.sources.image_file import load_image
from athanor.data.sources.image_folder import scan
from athanor.data.sources.listing import Listing
from athanor.data.sources.source import Source

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
COUNTS = (50_000, 10_000)  # train, test
ARCHIVE = "cifar-10-python.tar.gz"
BATCHES = "cifar-10-batches-py"
# These are torchvision's, whose import would take a second. The last batch is the test set.
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
BATCH_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}


def cifar10(data_dir: str | Path) -> Source:
    """From the official batches or their archive, else `data_dir`/cifar10/{train,test}/<class>/, else a download."""
    data_dir = Path(data_dir).expanduser()
    if _is_packed(data_dir) or not _is_present(data_dir):
        with locked(data_dir, "cifar10"):
            if not _is_present(data_dir):  # another process may have downloaded it while this one waited
                _download(data_dir)
            if _is_packed(data_dir):
                _unpack(data_dir)
    if (data_dir / BATCHES).is_dir():
        return _read_batches(data_dir / BATCHES)
    return _read_folder(data_dir / "cifar10", data_dir)


def _is_present(data_dir: Path) -> bool:
    return (data_dir / ARCHIVE).is_file() or any((data_dir / name).is_dir() for name in (BATCHES, "cifar10"))


def _is_packed(data_dir: Path) -> bool:
    return (data_dir / ARCHIVE).is_file() and not (data_dir / BATCHES).is_dir()


def _read_batches(folder: Path) -> Source:
    batches = [_read_batch(folder / name, md5) for name, md5 in BATCH_MD5.items()]
    images = [torch.from_numpy(batch["data"].reshape(-1, 3, 32, 32)) for batch in batches]
    labels = [torch.tensor(batch["labels"]) for batch in batches]
    origin = f"CIFAR-10, official batches in {folder}, checksums verified"
    return Source(torch.cat(images[:-1]), torch.cat(labels[:-1]), images[-1], labels[-1], CLASSES, origin)


def _read_batch(path: Path, md5: str) -> dict:
    content = path.read_bytes() if path.is_file() else b""
    # a pickle can run code: the same bytes are verified that are then loaded
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        problem = "differs from the official file" if content else "is missing"
        raise UserError(f"{path} {problem}; remove {path.parent} to unpack or download it again")
    with warnings.catch_warnings():
        # NumPy 2.4 warns about a flag that NumPy of 2009 wrote as 0 instead of False
        warnings.filterwarnings("ignore", "dtype.*align should be passed")
        return pickle.loads(content, encoding="latin1")


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
    images, _ = cached(folder, pictures.files, Decoding("RGB", None, skip_broken=False), data_dir)
    kinds = ", ".join(sorted({os.path.splitext(path)[1] for path, *_ in pictures.files}))
    origin = f"CIFAR-10, folder of {kinds} images {folder} (not the official batches: no checksums)"
    labels = pictures.targets
    return Source(images[:train], labels[:train], images[train:], labels[train:], CLASSES, origin)


def _unpack(data_dir: Path) -> None:
    archive = data_dir / ARCHIVE
    with archive.open("rb") as file:
        md5 = hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
    if md5 != ARCHIVE_MD5:
        raise UserError(f"{archive} differs from the official file, perhaps cut short; remove it to download it again")
    # unpacked under another name and then renamed, so that an incomplete folder never has the final name
    with tempfile.TemporaryDirectory(dir=data_dir, prefix=".unpack-") as folder, tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
        os.replace(Path(folder) / BATCHES, data_dir / BATCHES)


def _download(data_dir: Path) -> None:
    remedy = (
        f"put {ARCHIVE}, its unpacked {BATCHES}/, or the images as cifar10/train/<class>/ and cifar10/test/<class>/ "
        f"into {data_dir}"
    )
    with downloading("CIFAR-10", data_dir, remedy) as folder:
        from torchvision.datasets import CIFAR10  # the import takes a second, and only a download needs it
        from torchvision.datasets.utils import download_url

        download_url(CIFAR10.url, folder, ARCHIVE, ARCHIVE_MD5)
        os.replace(folder / ARCHIVE, data_dir / ARCHIVE)
