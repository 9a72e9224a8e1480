"""What CIFAR-100 shares with CIFAR-10, its archive and its checksums, is in test_cifar10.py."""

import hashlib
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from athanor.base.errors import UserError
from athanor.data.sources import cifar100 as module
from athanor.data.sources.cifar100 import OFFICIAL, cifar100

NAMES = [f"thing {i}" for i in range(100)]


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Files of the official form: 200 + 100 random images."""
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (count, 3072), np.uint8) for name, count in (("train", 200), ("test", 100))}
    contents = {
        name: {"data": data, "fine_labels": [i % 100 for i in range(len(data))], "coarse_labels": [0] * len(data)}
        for name, data in images.items()
    }
    folder = tmp_path / OFFICIAL.folder
    folder.mkdir()
    checksums = {}
    for name, content in {**contents, "meta": {"fine_label_names": NAMES, "coarse_label_names": ["a"]}}.items():
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        checksums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(module, "OFFICIAL", replace(OFFICIAL, md5=checksums))
    return images


def test_official_files_give_the_hundred_fine_classes(tmp_path, images):
    source = cifar100(tmp_path)
    assert torch.equal(source.train_inputs.flatten(1), torch.from_numpy(images["train"]))
    assert torch.equal(source.test_inputs.flatten(1), torch.from_numpy(images["test"]))
    assert source.train_targets.bincount().tolist() == [2] * 100 and source.test_targets.tolist() == list(range(100))
    assert source.class_names == tuple(NAMES)
    assert source.origin == f"CIFAR-100, official files in {tmp_path / OFFICIAL.folder}, checksums verified"


def test_a_changed_file_is_not_loaded(tmp_path, images):
    (tmp_path / OFFICIAL.folder / "meta").write_bytes(b"other")
    with pytest.raises(UserError, match="meta differs from the official file; remove"):
        cifar100(tmp_path)


def test_offline_the_error_says_what_to_put_where(tmp_path):
    with pytest.raises(UserError, match=r"put cifar-100-python\.tar\.gz, or its unpacked cifar-100-python/, into"):
        cifar100(tmp_path)


def test_it_trains(tmp_path, images, train):
    words = ["model=linear", "data.batch_size=50", "trainer.max_epochs=1", "logger=csv", "hydra.run.dir=run"]
    ran = train("data=cifar100", f"data_dir={tmp_path}", *words)
    assert (ran.code, ran.err) == (0, "")
