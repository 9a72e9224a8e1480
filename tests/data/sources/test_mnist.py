import gzip
import os
import re
import shutil
import struct

import numpy as np
import pytest
import torch

from athanor.base.errors import UserError
from athanor.data.sources import mnist as module
from athanor.data.sources.mnist import fashion_mnist, kmnist, mnist

COUNTS = {"train": 30, "t10k": 20}


def write_idx(path, array):
    header = struct.pack(f">{array.ndim + 1}I", 0x800 + array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


@pytest.fixture
def arrays(monkeypatch):
    monkeypatch.setattr(module, "COUNTS", COUNTS)
    rng = np.random.default_rng(0)
    return {
        split: (rng.integers(0, 256, (n, 28, 28), np.uint8), (np.arange(n) % 10).astype(np.uint8))
        for split, n in COUNTS.items()
    }


@pytest.fixture
def raw(tmp_path, arrays):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split, (images, labels) in arrays.items():
        write_idx(raw / f"{split}-images-idx3-ubyte", images)
        write_idx(raw / f"{split}-labels-idx1-ubyte", labels)
    return raw


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network here")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def files_in(folder):
    return sorted(str(path) for path in folder.rglob("*"))


def test_unpacked_files_are_read_and_nothing_is_written(tmp_path, raw, arrays, no_network):
    before = files_in(tmp_path)
    source = mnist(tmp_path)
    assert torch.equal(source.train_inputs[:, 0], torch.from_numpy(arrays["train"][0]))
    assert torch.equal(source.test_targets, torch.from_numpy(arrays["t10k"][1]).long())
    assert source.test_inputs.shape == (20, 1, 28, 28)
    assert source.class_names == tuple("0123456789")
    assert files_in(tmp_path) == before


def test_gz_files_are_read_without_unpacking(tmp_path, raw, arrays, no_network):
    for path in list(raw.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    before = files_in(tmp_path)
    assert torch.equal(mnist(tmp_path).test_inputs[:, 0], torch.from_numpy(arrays["t10k"][0]))
    assert files_in(tmp_path) == before


def test_torchvision_reads_the_same(tmp_path, raw):
    from torchvision.datasets import MNIST

    assert torch.equal(MNIST(tmp_path, train=False).data, mnist(tmp_path).test_inputs[:, 0])


@pytest.mark.parametrize(
    "function, folder, first", [(fashion_mnist, "FashionMNIST", "T-shirt/top"), (kmnist, "KMNIST", "o")]
)
def test_others_of_the_same_format_have_their_own_folder_and_names(tmp_path, raw, function, folder, first):
    from torchvision import datasets

    shutil.move(tmp_path / "MNIST", tmp_path / folder)
    source = function(tmp_path)
    assert source.class_names[0] == first
    assert source.class_names == tuple(getattr(datasets, folder).classes)
    assert folder in source.origin


def test_a_truncated_file_is_named_with_its_size(tmp_path, raw):
    path = raw / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(
        UserError, match=f"{re.escape(str(path))} is truncated or wrong: 23,531 bytes instead of 23,536"
    ):
        mnist(tmp_path)


def test_a_wrong_file_is_named_with_its_header(tmp_path, raw):
    shutil.copy(raw / "t10k-labels-idx1-ubyte", raw / "t10k-images-idx3-ubyte")
    with pytest.raises(UserError, match="t10k-images-idx3-ubyte is not the file it should be: header 00000801"):
        mnist(tmp_path)


def test_a_damaged_gz_is_named(tmp_path, raw):
    path = raw / "t10k-labels-idx1-ubyte"
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes())[:-9])
    path.unlink()
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte\.gz is damaged"):
        mnist(tmp_path)


def test_offline_the_error_names_the_missing_files_in_two_lines(tmp_path, raw, no_network):
    (raw / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match=r"put t10k-labels-idx1-ubyte \(or the same with \.gz\) into") as error:
        mnist(tmp_path)
    assert str(raw) in str(error.value)
    assert "data=digits" in str(error.value)
    assert str(error.value).count("\n") == 1
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == [tmp_path / "MNIST"]


def test_real_mnist():
    if "ATHANOR_DATA" not in os.environ:
        pytest.skip("ATHANOR_DATA is not set: no real data")
    if not os.path.isdir(os.path.join(os.environ["ATHANOR_DATA"], "MNIST")):
        pytest.skip("no MNIST/ in ATHANOR_DATA")
    source = mnist(os.environ["ATHANOR_DATA"])
    assert source.train_targets.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert source.train_inputs.float().mean().item() == pytest.approx(255 * 0.1307, rel=1e-3)
    assert len(source.test_inputs) == 10_000
