"""CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 colour images of 32x32 pixels in 100 classes."""

from pathlib import Path

from athanor.data.sources.cifar import Official, images_and_labels
from athanor.data.sources.source import Source

MD5 = {
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}
OFFICIAL = Official("CIFAR-100", "cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", "cifar-100-python", MD5)


def cifar100(data_dir: str | Path) -> Source:
    """From the official files or their archive, else a download; the classes are the 100 fine ones."""
    data_dir = Path(data_dir).expanduser()
    train, test, meta = OFFICIAL.read(data_dir)
    parts = (*images_and_labels([train], "fine_labels"), *images_and_labels([test], "fine_labels"))
    origin = f"CIFAR-100, official files in {data_dir / OFFICIAL.folder}, checksums verified"
    return Source(*parts, tuple(meta["fine_label_names"]), origin)
