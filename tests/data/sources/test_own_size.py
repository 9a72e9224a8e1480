"""Pictures that are kept at their own size: what is read of them, whoever reads it, and that runs with them go on."""

import pickle
import re
from collections import namedtuple
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from athanor.base.errors import UserError
from athanor.data.sources import cache
from athanor.data.sources.folder_labels import folder_labels
from athanor.data.sources.image_folder import image_folder
from athanor.data.sources.own_size import random_window
from athanor.engine.runs.lineage import image_hashes
from athanor.engine.runs.run import Run

SETTINGS = dict(image_size=16, mode="RGB", skip_broken=False, follow_links=False, split_seed=0, test_fraction=0.25)
SETTINGS |= dict(resize="each", resize_area=None, resize_workers=0)
IN_CLASSES = dict(splits=None, val_is="val")
SIZES = [(20, 30), (31, 17), (24, 24), (16, 19)]  # width and height


@pytest.fixture
def root(tmp_path):
    """Two classes of 12 pictures of noise, each class in the sizes of SIZES in turn."""
    noise = np.random.default_rng(0)
    for name, low in ("dark", 0), ("light", 100):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(12):
            width, height = SIZES[i % len(SIZES)]
            pixels = noise.integers(low, low + 150, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{i}.png")
    return tmp_path / "pets"


@pytest.fixture
def read(root, tmp_path):
    return lambda **settings: image_folder(root, data_dir=tmp_path / "data", **SETTINGS | IN_CLASSES | settings)


def windows(items, *moment, parts=((0, 1, 2, 3), (4, 5))):
    """What training reads in batches of these numbers."""
    batches = list(items.batches(map(torch.tensor, parts), *moment))
    items.close()
    return torch.cat([inputs for _, inputs, _ in batches])


def test_outside_of_training_they_are_what_pictures_resized_once_are(read):
    each, once = read(), read(resize="once")
    for stage in "train", "test":
        inputs = getattr(each, f"{stage}_inputs")
        assert inputs.shape == getattr(once, f"{stage}_inputs").shape
        assert torch.equal(inputs[:], getattr(once, f"{stage}_inputs"))
        assert torch.equal(getattr(each, f"{stage}_targets"), getattr(once, f"{stage}_targets"))


def test_a_window_depends_on_seed_epoch_and_number_alone(read):
    items, by_workers = read().train_inputs, read(resize_workers=2).train_inputs
    first = windows(items, 0, 1)
    assert torch.equal(windows(items, 0, 1, parts=[(0, 1, 2, 3, 4, 5)]), first)
    assert torch.equal(windows(by_workers, 0, 1), first)
    for other in (0, 2), (1, 1):
        assert not (windows(items, *other) == first).flatten(1).all(1).any()


def test_a_window_is_resized_as_torchvision_does(read):
    dataset = read().train_inputs.training.dataset
    for number in range(len(dataset)):
        picture = torch.from_numpy(dataset.picture(number).copy()).permute(2, 0, 1)
        torch.manual_seed(number)
        rows, columns = random_window(*picture.shape[1:], dataset.area)
        torch.manual_seed(number)
        place = rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start
        assert torch.equal(dataset[number][0], F.resized_crop(picture, *place, [16, 16]))


def test_a_worker_that_is_no_fork_is_sent_no_pixels(read):
    dataset = read().train_inputs.training.dataset
    assert dataset.picture(3).size
    sent = pickle.dumps(dataset)
    assert len(sent) < 3000 < sum(dataset.picture(i).size for i in range(len(dataset)))
    assert np.array_equal(pickle.loads(sent).picture(3), dataset.picture(3))


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (90, 1), (40, 60)])
@pytest.mark.parametrize("area", [[0.08, 1], [1, 1], [0.001, 0.001]])
def test_windows_lie_within_their_picture(size, area):
    shares = []
    for _ in range(100):
        rows, columns = random_window(*size, area)
        assert 0 <= rows.start < rows.stop <= size[0]
        assert 0 <= columns.start < columns.stop <= size[1]
        shares.append((rows.stop - rows.start) * (columns.stop - columns.start) / (size[0] * size[1]))
    if size == (40, 60) and area == [0.08, 1]:
        assert min(shares) < 0.25
        assert max(shares) > 0.75


def test_another_size_of_inputs_decodes_nothing_again(read, root, tmp_path, monkeypatch):
    assert read().train_inputs.shape[1:] == (3, 16, 16)
    monkeypatch.setattr(cache, "_build", None)
    assert read(image_size=8).train_inputs.shape[1:] == (3, 8, 8)


def test_grey_pictures_have_one_channel(read, root):
    for path in root.rglob("*.png"):
        Image.open(path).convert("L").convert("RGB").save(path)
    auto, grey = read(mode="auto").train_inputs, read(mode="L").train_inputs
    assert auto.shape[1:] == (1, 16, 16)
    assert torch.equal(auto[:], grey[:])
    assert torch.equal(windows(auto, 0, 0), windows(grey, 0, 0))


def test_broken_pictures_are_left_out(read, root):
    (root / "dark" / "5.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=re.escape("5.png: not an image")):
        read()
    source = read(skip_broken=True)
    assert len(source.train_inputs) + len(source.test_inputs) == 23
    assert torch.equal(source.train_inputs[:], read(skip_broken=True, resize="once").train_inputs)


def test_too_little_space_is_said_before_decoding(read, monkeypatch):
    pixels = 6 * sum(width * height for width, height in SIZES)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage(0, 0, 3 * pixels - 1))
    with pytest.raises(UserError, match=r"data\.resize=once"):
        read()
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage(0, 0, 3 * pixels))
    read()


def test_pictures_are_named_by_their_pixels_whatever_the_split_is(read):
    first, other = read(), read(split_seed=1, image_size=8)
    hashes = [
        torch.cat([image_hashes(part, torch.arange(len(part))) for part in (source.train_inputs, source.test_inputs)])
        for source in (first, other)
    ]
    assert len(hashes[0].unique()) == 24
    assert not torch.equal(*hashes)
    assert torch.equal(hashes[0].sort().values, hashes[1].sort().values)


def test_pictures_with_labels_in_a_file_keep_their_size_too(root, tmp_path):
    rows = "".join(f"{name}/{i},{i / 2}\n" for name in ("dark", "light") for i in range(12))
    (tmp_path / "labels.csv").write_text("file,age\n" + rows, encoding="utf-8")
    columns = dict(file_column="file", target_columns=None, target_kind="auto", split_column=None, group_column=None)
    source = folder_labels(root, tmp_path / "labels.csv", data_dir=tmp_path / "data", **columns, **SETTINGS)
    _, inputs, targets = next(source.train_inputs.batches(iter([torch.arange(5)]), 0, 0))
    assert inputs.shape == (5, 3, 16, 16)
    assert torch.equal(targets, source.train_targets[:5])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(resize="never"), "data.resize=never; use once or each"),
        (dict(image_size=None), "data.resize=each resizes pictures to data.image_size; use pixels, as 64"),
        (dict(resize_area=[0, 1]), "data.resize_area=[0, 1]: use [least, most], above 0, up to 1"),
        (dict(resize_area=[0.5]), "data.resize_area=[0.5]: use [least, most]"),
        (dict(resize="once", resize_area=[0.5, 1]), "data.resize_area=[0.5, 1] is for data.resize=each; leave it out"),
        (dict(resize_workers=-1), "data.resize_workers=-1: use 0 (no processes) or more"),
        (dict(mode="L16"), "data.resize=each takes pictures of 8 bits; type data.mode=L, or data.resize=once for 16"),
    ],
)
def test_settings_that_do_not_fit_are_refused(read, settings, message):
    with pytest.raises(UserError, match=re.escape(message)):
        read(**settings)


@pytest.fixture
def run_pets(train, root, tmp_path):
    words = ["data=image_folder", f"data.root={root}", "data.image_size=16", "data.resize=each", "data.batch_size=4"]
    words += ["data.test_fraction=0.25", "data.augment.flip=true", "model=linear", "trainer.max_epochs=3"]
    return partial(train, *words, f"data_dir={tmp_path / 'data'}")


def test_a_run_goes_on_to_the_bit_is_evaluated_and_predicts(run_pets, run_here, assert_resumed, tmp_path):
    assert_resumed(run_pets, "data.resize_workers=0", places=[5])
    ran = run_here("scripts/evaluate.py", "whole", "data.resize_workers=2")
    assert ran.code == 0, ran.err
    assert Run("whole").results["data"]["origin"].endswith("split_seed=0")
    ran = run_here("scripts/predict.py", "whole", "pets/dark", "--csv", "out.csv")
    assert ran.code == 0, ran.err
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 13


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_on_to_the_bit_from_anywhere(workers, run_pets, assert_resumed):
    assert_resumed(run_pets, f"data.resize_workers={workers}", places=[1, 3, 5, 7, 8])
