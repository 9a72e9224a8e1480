"""Street View House Numbers (Netzer et al. 2011): 73,257 + 26,032 colour images of 32x32 pixels in 10 classes."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from athanor.base.errors import UserError
from athanor.data.sources.cache import locked
from athanor.data.sources.download import downloading, verified
from athanor.data.sources.source import Source

# These are torchvision's, whose import would take a second.
MD5 = {"train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373", "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3"}


def svhn(data_dir: str | Path) -> Source:
    """The cropped digits, from `data_dir`/SVHN/, where the files are downloaded to if they are missing.

    Raises UserError without SciPy, which reads MATLAB's files.
    """
    try:
        from scipy.io import loadmat  # before a download of 250 MB
    except ImportError as error:
        raise UserError("data=svhn needs SciPy, which reads its MATLAB files: pip install scipy") from error
    folder = Path(data_dir).expanduser() / "SVHN"
    if _missing(folder):
        with locked(folder.parent, "SVHN"):
            if _missing(folder):  # another process may have downloaded them while this one waited
                _download(folder)
    parts = [part for name in MD5 for part in _read(folder / name, loadmat)]
    return Source(*parts, tuple("0123456789"), f"SVHN, official cropped digits in {folder}, checksums verified")


def _missing(folder: Path) -> list[str]:
    return [name for name in MD5 if not (folder / name).is_file()]


def _read(path: Path, loadmat: Callable) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, 3, 32, 32] and labels int64 [N]."""
    arrays = loadmat(io.BytesIO(verified(path, MD5[path.name], "remove it to download it again")))
    images = np.ascontiguousarray(arrays["X"].transpose(3, 2, 0, 1))  # [H, W, C, N] in the file
    return torch.from_numpy(images), torch.from_numpy(arrays["y"].flatten().astype(np.int64) % 10)  # 10 is the digit 0


def _download(folder: Path) -> None:
    with downloading("SVHN", folder.parent, f"put {', '.join(_missing(folder))} into {folder}") as temporary:
        from torchvision import datasets  # the import takes a second, and only a download needs it

        urls = {name: url for url, name, _ in datasets.SVHN.split_list.values()}
        folder.mkdir(exist_ok=True)
        for name in _missing(folder):
            datasets.utils.download_url(urls[name], temporary, name, MD5[name])
            os.replace(temporary / name, folder / name)
