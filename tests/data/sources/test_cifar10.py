import hashlib
import io
import os
import pickle
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from athanor.base.errors import UserError
from athanor.data.sources import cifar10 as module
from athanor.data.sources.cifar10 import CLASSES, OFFICIAL, cifar10
from athanor.data.sources.cifar100 import OFFICIAL as CIFAR100

ARCHIVE, BATCHES = OFFICIAL.archive, OFFICIAL.folder


def old_pickle(batch):
    """As Python 2 and NumPy of 2009 wrote it: other module names, and 0 for False in the dtype."""
    content = pickle.dumps(batch, protocol=2)
    return content.replace(b"numpy._core.", b"numpy.core.").replace(b"\x89\x88\x87R", b"K\x00K\x01\x87R")


@pytest.fixture
def batches(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    arrays, checksums = {}, {}
    (tmp_path / BATCHES).mkdir()
    for name in OFFICIAL.md5:
        arrays[name] = rng.integers(0, 256, (20, 3072), np.uint8)
        content = old_pickle({"data": arrays[name], "labels": [i % 10 for i in range(20)]})
        (tmp_path / BATCHES / name).write_bytes(content)
        checksums[name] = hashlib.md5(content).hexdigest()
    monkeypatch.setattr(module, "OFFICIAL", replace(OFFICIAL, md5=checksums))
    return arrays


@pytest.fixture
def archive(tmp_path, batches, monkeypatch):
    with tarfile.open(tmp_path / ARCHIVE, "w:gz") as tar:
        tar.add(tmp_path / BATCHES, BATCHES)
    for path in (tmp_path / BATCHES).iterdir():
        path.unlink()
    (tmp_path / BATCHES).rmdir()
    md5 = hashlib.md5((tmp_path / ARCHIVE).read_bytes()).hexdigest()
    monkeypatch.setattr(module, "OFFICIAL", replace(module.OFFICIAL, archive_md5=md5))
    return tmp_path / ARCHIVE


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "COUNTS", (20, 10))
    for split, count in (("train", 2), ("test", 1)):
        for label, name in enumerate(CLASSES):
            (tmp_path / "cifar10" / split / name).mkdir(parents=True)
            for i in range(count):
                image = Image.new("RGB", (32, 32), (label, i, 0))
                image.save(tmp_path / "cifar10" / split / name / f"{i}.webp", lossless=True)
    return tmp_path / "cifar10"


@pytest.mark.parametrize("official", [OFFICIAL, CIFAR100], ids=lambda official: official.name)
def test_checksums_are_those_of_torchvision(official):
    from torchvision import datasets

    theirs = getattr(datasets, official.name.replace("-", ""))
    files = dict([*theirs.train_list, *theirs.test_list])
    assert files.items() <= official.md5.items() <= (files | {theirs.meta["filename"]: theirs.meta["md5"]}).items()
    assert (theirs.base_folder, theirs.filename) == (official.folder, official.archive)
    assert theirs.tgz_md5 == official.archive_md5


def test_official_batches(tmp_path, batches):
    source = cifar10(tmp_path)
    assert source.train_inputs.shape == (100, 3, 32, 32)
    assert torch.equal(source.train_inputs[20].flatten(), torch.from_numpy(batches["data_batch_2"][0]))
    assert torch.equal(source.test_inputs.flatten(1), torch.from_numpy(batches["test_batch"]))
    assert source.test_targets.tolist() == [i % 10 for i in range(20)]
    assert source.class_names == CLASSES
    assert "official batches" in source.origin


def test_official_archive_is_unpacked_once(tmp_path, archive, batches):
    cifar10(tmp_path)
    archive.unlink()
    assert torch.equal(cifar10(tmp_path).test_inputs.flatten(1), torch.from_numpy(batches["test_batch"]))


def test_official_files_are_preferred_to_the_folder(tmp_path, archive, folder):
    assert "official batches" in cifar10(tmp_path).origin


def test_a_pickle_is_not_loaded_unless_its_checksum_is_right(tmp_path, batches):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    (tmp_path / BATCHES / "data_batch_3").write_bytes(pickle.dumps(Attack()))
    with pytest.raises(UserError, match="data_batch_3 differs from the official file; remove"):
        cifar10(tmp_path)
    assert not (tmp_path / "owned").exists()


def test_a_missing_batch_is_named(tmp_path, batches):
    (tmp_path / BATCHES / "test_batch").unlink()
    with pytest.raises(UserError, match="test_batch is missing; remove"):
        cifar10(tmp_path)


def test_a_truncated_archive_is_named_and_left_packed(tmp_path, archive):
    archive.write_bytes(archive.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"cifar-10-python\.tar\.gz differs from the official file, perhaps cut short"):
        cifar10(tmp_path)
    assert not (tmp_path / BATCHES).exists()


def test_folder_of_images(tmp_path, folder):
    source = cifar10(tmp_path)
    assert source.train_inputs.shape == (20, 3, 32, 32)
    assert source.train_inputs[5, :, 0, 0].tolist() == [2, 1, 0]
    assert source.test_inputs[:, 0, 0, 0].tolist() == source.test_targets.tolist() == list(range(10))
    assert source.class_names == CLASSES == tuple(sorted(CLASSES))
    assert "folder of .webp images" in source.origin


def test_folder_with_an_image_too_few(tmp_path, folder):
    (folder / "train" / "cat" / "0.webp").unlink()
    with pytest.raises(UserError, match="has 19 train and 10 test images; CIFAR-10 has 20 and 10"):
        cifar10(tmp_path)


def test_folder_of_another_image_size(tmp_path, folder):
    Image.new("RGB", (64, 48)).save(folder / "train" / "airplane" / "0.webp")
    with pytest.raises(UserError, match=r"0\.webp is 64x48; CIFAR-10 is 32x32"):
        cifar10(tmp_path)


def test_folder_of_other_classes(tmp_path, folder):
    for split in ("train", "test"):
        (folder / split / "cat").rename(folder / split / "kitten")
    with pytest.raises(UserError, match=r"has classes airplane, .*kitten.*; CIFAR-10 has airplane"):
        cifar10(tmp_path)


def test_folder_without_test(tmp_path):
    (tmp_path / "cifar10" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match="test/ missing in"):
        cifar10(tmp_path)


def test_offline_the_error_says_what_to_put_where(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network here")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(UserError, match=r"put cifar-10-python\.tar\.gz, or its unpacked cifar-10-batches") as error:
        cifar10(tmp_path / "new")
    assert f"into {tmp_path / 'new'}, or use data=digits" in str(error.value)
    assert str(error.value).count("\n") == 1


def test_a_download_is_verified_and_kept(tmp_path, archive, monkeypatch):
    content = archive.read_bytes()
    archive.unlink()

    def serve(request, *args, **kwargs):
        response = io.BytesIO(content)
        response.url, response.length = request.full_url, len(content)
        return response

    monkeypatch.setattr("urllib.request.urlopen", serve)
    assert len(cifar10(tmp_path).train_inputs) == 100
    assert archive.read_bytes() == content


def test_real_cifar10():
    if "ATHANOR_DATA" not in os.environ:
        pytest.skip("ATHANOR_DATA is not set: no real data")
    if not any(
        os.path.exists(os.path.join(os.environ["ATHANOR_DATA"], name)) for name in (BATCHES, ARCHIVE, "cifar10")
    ):
        pytest.skip("no CIFAR-10 in ATHANOR_DATA")
    source = cifar10(os.environ["ATHANOR_DATA"])
    assert source.train_targets.bincount().tolist() == [5000] * 10
    assert source.test_targets.bincount().tolist() == [1000] * 10
    means = [channel.float().mean().item() / 255 for channel in source.train_inputs.unbind(1)]
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)
