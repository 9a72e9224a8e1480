"""The official files of CIFAR-10 and CIFAR-100: pickles in an archive (Krizhevsky 2009)."""

import hashlib
import os
import pickle
import tarfile
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from athanor.base.errors import UserError
from athanor.data.sources.cache import locked
from athanor.data.sources.download import downloading, verified


@dataclass(frozen=True)
class Official:
    """The archive of a data set and the pickles in its folder, with their MD5: those that torchvision has."""

    name: str  # as CIFAR-10; without the hyphen it is torchvision's class
    archive: str
    archive_md5: str
    folder: str
    md5: dict[str, str]

    def lies_in(self, data_dir: Path) -> bool:
        return (data_dir / self.archive).is_file() or (data_dir / self.folder).is_dir()

    def read(self, data_dir: Path, other_remedy: str = "") -> list[dict]:
        """The contents of the pickles, from the folder, else from the archive, which is downloaded if it is missing.

        other_remedy: what a person without a network may put into `data_dir` instead of the archive.
        """
        folder = data_dir / self.folder
        if not folder.is_dir():
            with locked(data_dir, self.folder):
                if not self.lies_in(data_dir):  # another process may have downloaded it while this one waited
                    self._download(data_dir, other_remedy)
                if not folder.is_dir():
                    self._unpack(data_dir)
        return [self._load(folder / name) for name in self.md5]

    def _load(self, path: Path) -> dict:
        # a pickle can run code: the same bytes are verified that are then loaded
        content = verified(path, self.md5[path.name], f"remove {path.parent} to unpack or download it again")
        with warnings.catch_warnings():
            # NumPy 2.4 warns about a flag that NumPy of 2009 wrote as 0 instead of False
            warnings.filterwarnings("ignore", "dtype.*align should be passed")
            return pickle.loads(content, encoding="latin1")

    def _unpack(self, data_dir: Path) -> None:
        archive = data_dir / self.archive
        with archive.open("rb") as file:
            md5 = hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
        if md5 != self.archive_md5:
            problem = "differs from the official file, perhaps cut short"
            raise UserError(f"{archive} {problem}; remove it to download it again")
        # unpacked under another name and then renamed, so that an incomplete folder never has the final name
        with tempfile.TemporaryDirectory(dir=data_dir, prefix=".unpack-") as folder, tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
            os.replace(Path(folder) / self.folder, data_dir / self.folder)

    def _download(self, data_dir: Path, other_remedy: str) -> None:
        remedy = f"put {self.archive}, or its unpacked {self.folder}/,{other_remedy} into {data_dir}"
        with downloading(self.name, data_dir, remedy) as folder:
            from torchvision import datasets  # the import takes a second, and only a download needs it

            url = getattr(datasets, self.name.replace("-", "")).url
            datasets.utils.download_url(url, folder, self.archive, self.archive_md5)
            os.replace(folder / self.archive, data_dir / self.archive)


def images_and_labels(batches: Sequence[dict], labels: str) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, 3, 32, 32] and labels int64 [N], which stand in the batches under the name `labels`."""
    images = [torch.from_numpy(batch["data"].reshape(-1, 3, 32, 32)) for batch in batches]
    return torch.cat(images), torch.cat([torch.tensor(batch[labels]) for batch in batches])
