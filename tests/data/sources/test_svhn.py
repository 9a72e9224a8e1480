import hashlib
import io
import sys
import types

import numpy as np
import pytest
import torch

from athanor.base.errors import UserError
from athanor.data.sources import svhn as module
from athanor.data.sources.svhn import svhn


@pytest.fixture
def scipy(monkeypatch):
    """A stand-in for SciPy, which the tests do not install, with loadmat for the files that `arrays` writes."""
    package, package_io = types.ModuleType("scipy"), types.ModuleType("scipy.io")
    package_io.loadmat = lambda file: dict(np.load(file))
    package.io = package_io
    monkeypatch.setitem(sys.modules, "scipy", package)
    monkeypatch.setitem(sys.modules, "scipy.io", package_io)


@pytest.fixture
def arrays(tmp_path, monkeypatch):
    """30 + 20 images in the shapes of the official files, with the labels 1 to 10, and their checksums."""
    rng = np.random.default_rng(0)
    arrays, checksums = {}, {}
    (tmp_path / "SVHN").mkdir()
    for name, count in (("train_32x32.mat", 30), ("test_32x32.mat", 20)):
        labels = (1 + np.arange(count) % 10).astype(np.uint8)[:, None]
        arrays[name] = {"X": rng.integers(0, 256, (32, 32, 3, count), np.uint8), "y": labels}
        content = io.BytesIO()
        np.savez(content, **arrays[name])
        (tmp_path / "SVHN" / name).write_bytes(content.getvalue())
        checksums[name] = hashlib.md5(content.getvalue()).hexdigest()
    monkeypatch.setattr(module, "MD5", checksums)
    return arrays


def test_checksums_are_those_of_torchvision():
    from torchvision.datasets import SVHN

    assert {name: md5 for _, name, md5 in SVHN.split_list.values() if "extra" not in name} == module.MD5


def test_official_files(tmp_path, scipy, arrays):
    source = svhn(tmp_path)
    assert source.train_inputs.shape == (30, 3, 32, 32) and source.train_inputs.is_contiguous()
    assert source.train_inputs[7, 2, 3, 4] == arrays["train_32x32.mat"]["X"][3, 4, 2, 7].item()
    assert source.test_targets.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0] * 2  # the label 10 is the digit 0
    assert source.train_targets.dtype == torch.int64 and source.class_names == tuple("0123456789")


def test_real_matlab_files_are_read_where_scipy_is_installed(tmp_path, arrays, monkeypatch):
    savemat = pytest.importorskip("scipy.io").savemat
    path = tmp_path / "SVHN" / "test_32x32.mat"
    savemat(path, arrays[path.name], do_compression=True)
    savemat(path.with_name("train_32x32.mat"), arrays["train_32x32.mat"], do_compression=True)
    files = (tmp_path / "SVHN").iterdir()
    monkeypatch.setattr(module, "MD5", {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in files})
    read = svhn(tmp_path)
    assert read.test_inputs[5, 1, 2, 3] in arrays[path.name]["X"][2, 3, 1]
    assert read.test_targets.bincount().tolist() == [2] * 10


def test_a_changed_file_is_named(tmp_path, scipy, arrays):
    (tmp_path / "SVHN" / "test_32x32.mat").write_bytes(b"short")
    with pytest.raises(UserError, match=r"test_32x32\.mat differs from the official file; remove it to download"):
        svhn(tmp_path)


def test_offline_the_error_names_the_missing_files(tmp_path, scipy, arrays):
    (tmp_path / "SVHN" / "test_32x32.mat").unlink()
    with pytest.raises(UserError, match=rf"put test_32x32\.mat into {tmp_path / 'SVHN'}, or use data=digits"):
        svhn(tmp_path)


def test_without_scipy_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"data=svhn needs SciPy, .*: pip install scipy"):
        svhn(tmp_path)
