"""MNIST (LeCun et al. 1998), Fashion-MNIST (Xiao et al. 2017) and Kuzushiji-MNIST (Clanuwat et al. 2018).

Each has 60,000 + 10,000 grey images of 28x28 pixels in 10 classes.
"""

import gzip
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from athanor.base.errors import UserError
from athanor.data.sources.cache import locked
from athanor.data.sources.download import downloading
from athanor.data.sources.source import Source

COUNTS = {"train": 60_000, "t10k": 10_000}
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

KUZUSHIJI = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")


def mnist(data_dir: str | Path) -> Source:
    """From `data_dir`/MNIST/raw/, where the files are downloaded to if they are missing."""
    return _read("MNIST", tuple("0123456789"), data_dir)


def fashion_mnist(data_dir: str | Path) -> Source:
    """From `data_dir`/FashionMNIST/raw/, where the files are downloaded to if they are missing."""
    return _read("FashionMNIST", FASHION, data_dir)


def kmnist(data_dir: str | Path) -> Source:
    """From `data_dir`/KMNIST/raw/, where the files are downloaded to if they are missing."""
    return _read("KMNIST", KUZUSHIJI, data_dir)


def _read(name: str, class_names: tuple[str, ...], data_dir: str | Path) -> Source:
    data_dir = Path(data_dir).expanduser()
    raw = data_dir / name / "raw"  # as torchvision places them
    if _missing(raw):
        with locked(data_dir, name):
            if _missing(raw):  # another process may have downloaded them while this one waited
                _download(name, data_dir, raw)
    arrays = []
    for split, count in COUNTS.items():
        arrays.append(_read_idx(raw / f"{split}-images-idx3-ubyte", (count, 28, 28))[:, None])
        arrays.append(_read_idx(raw / f"{split}-labels-idx1-ubyte", (count,)).long())
        if arrays[-1].max() >= len(class_names):
            raise UserError(f"{raw}/{split}-labels-idx1-ubyte has labels above 9; it is not {name}'s file")
    return Source(*arrays, class_names=class_names, origin=f"{name}, official train and test files in {raw}")


def _missing(raw: Path) -> list[str]:
    files = [f"{split}-{kind}-ubyte" for split in COUNTS for kind in ("images-idx3", "labels-idx1")]
    return [file for file in files if not (raw / file).is_file() and not (raw / f"{file}.gz").is_file()]


def _read_idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """uint8 of `shape` from `path`, or from `path`.gz, which is not unpacked to disk: the folder may be read-only."""
    if not path.is_file():
        path = path.with_name(f"{path.name}.gz")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is damaged ({error}); remove it to download it again") from error
    # header: magic 0x0000 08 (uint8) and the number of dimensions, then the dimensions, big-endian
    header = struct.pack(f">{len(shape) + 1}I", 0x800 + len(shape), *shape)
    if content[: len(header)] != header:
        difference = f"header {content[: len(header)].hex()}, expected {header.hex()} for {' x '.join(map(str, shape))}"
        raise UserError(f"{path} is not the file it should be: {difference}; remove it to download it again")
    size = len(header) + math.prod(shape)
    if len(content) != size:
        sizes = f"{len(content):,} bytes instead of {size:,}"
        raise UserError(f"{path} is truncated or wrong: {sizes}; remove it to download it again")
    # a bytearray, because torch warns about read-only memory
    return torch.from_numpy(np.frombuffer(bytearray(content), np.uint8, offset=len(header)).reshape(shape))


def _download(name: str, data_dir: Path, raw: Path) -> None:
    remedy = f"put {', '.join(_missing(raw))} (or the same with .gz) into {raw}"
    with downloading(name, data_dir, remedy) as folder:
        from torchvision import datasets  # the import takes a second, and only a download needs it

        getattr(datasets, name)(folder, download=True)  # verifies the checksums
        raw.mkdir(parents=True, exist_ok=True)
        for file in _missing(raw):
            os.replace(folder / name / "raw" / file, raw / file)
