"""Torch Datasets as data sets: what items may be, and that their randomness is a function of seed, epoch and index."""

import logging
import os
import random
from textwrap import dedent

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, Subset
from torchvision.transforms import v2

from athanor.base.errors import UserError
from athanor.callbacks.checkpoints import Checkpoints
from athanor.data.datasets import Datasets, draws_numbers
from athanor.data.streamed import ItemError, Items
from athanor.engine.runs.lineage import image_hashes
from athanor.engine.runs.provenance import hash_of
from athanor.engine.runs.run import Run, read_checkpoint
from athanor.tasks.task import Task

CODE = """
import random

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms import v2

from athanor.data.datasets import Datasets


class Squares(Dataset):
    classes = ["dark", "grey", "bright"]

    def __init__(self, count, first, transform):
        self.targets = [i % 3 for i in range(first, first + count)]
        self.transform = transform

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        pixels = np.full((9, 9, 3), 60 * self.targets[i] + i % 50, dtype=np.uint8)
        return self.transform(Image.fromarray(pixels)), self.targets[i]


class Jitter:
    def __call__(self, image):
        return image + 0.1 * np.random.randn() + 0.1 * random.random()


FLOAT = [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.25] * 3)]
PLAIN = v2.Compose([v2.ToImage(), v2.CenterCrop(8), *FLOAT])
RANDOM = v2.Compose([v2.ToImage(), v2.RandomCrop(8), v2.RandomHorizontalFlip(), *FLOAT, Jitter()])


def squares(count: int, is_random: bool) -> Datasets:
    train = Squares(count, 0, RANDOM if is_random else PLAIN)
    return Datasets(train, Squares(60, 1, PLAIN), plain=Squares(count, 0, PLAIN) if is_random else None)
"""
YAML = """
defaults: [base/datasets@_here_, _self_]
_target_: squares.squares
batch_size: 32
count: 200
is_random: true
"""
WORDS = ["data=squares", "data/preprocess=none", "model=mlp", "model.widths=[8]", "trainer.max_epochs=2"]
EACH_STEP = "callbacks.checkpoints.every_minutes=1e-9"  # of 5 in an epoch


@pytest.fixture
def squares(tmp_path, monkeypatch):
    (tmp_path / "squares.py").write_text(CODE)
    (tmp_path / "configs" / "data").mkdir(parents=True)
    (tmp_path / "configs" / "data" / "squares.yaml").write_text(dedent(YAML))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture
def run_squares(squares, train, tmp_path):
    return lambda *words: train("--config-dir", tmp_path / "configs", *WORDS, *words)


def states(run):
    return read_checkpoint(run.dir / "checkpoints" / "last.ckpt")["state_dict"]


def assert_equal(whole, parts):
    assert all(torch.equal(value, states(parts)[name]) for name, value in states(whole).items())
    for stage in "train", "val", "test":
        assert parts.results[stage] == whole.results[stage]


PLACES = {  # where it is stopped, and at which step
    "at a step": (Task, "on_train_batch_start", 7),
    "at the first step of an epoch": (Task, "on_train_batch_start", 5),
    "in validation": (Task, "on_validation_epoch_start", 5),
    "before the checkpoint": (Checkpoints, "on_train_epoch_end", 5),
    "in the test": (Task, "on_test_epoch_end", 10),
}


def stop(monkeypatch, place, run):
    owner, hook, step = PLACES[place]
    original = getattr(owner, hook)

    def stopped(self, *arguments):
        trainer = self.trainer if owner is Task else arguments[0]
        if trainer.global_step == step:
            raise KeyboardInterrupt
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, hook, stopped)
        assert run().code != 0


def test_a_run_with_workers_goes_on_in_mid_epoch_as_one_without_would(run_squares, train, run_here, monkeypatch):
    ran = run_squares("hydra.run.dir=whole", "data.workers=0")
    assert (ran.code, ran.err) == (0, "")
    stop(monkeypatch, "at a step", lambda: run_squares("hydra.run.dir=parts", "data.workers=2", EACH_STEP))
    ran = train("resume=parts")
    assert (ran.code, ran.err) == (0, "")
    assert_equal(Run("whole"), Run("parts"))
    results = Run("whole").results
    assert results["data"]["origin"] == "torch Datasets: train 200 of Squares, test 60 of Squares"
    ran = run_here("scripts/evaluate.py", "whole")
    assert f"(recorded {results['test']['acc']!r})" in ran.out and "not the data" not in ran.out, ran.err


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("place", PLACES)
def test_it_goes_on_to_the_bit_from_anywhere(place, workers, run_squares, train, monkeypatch):
    assert run_squares("hydra.run.dir=whole", "data.workers=0", EACH_STEP).code == 0
    stop(monkeypatch, place, lambda: run_squares("hydra.run.dir=parts", f"data.workers={workers}", EACH_STEP))
    assert train("resume=parts").code == 0
    assert_equal(Run("whole"), Run("parts"))


def test_seeds_are_swept(run_squares):
    ran = run_squares("-m", "seed=0,1", "hydra.sweep.dir=sweep", "trainer.max_epochs=1", "data.workers=0")
    assert (ran.code, ran.err) == (0, "")
    assert "2 seeds  val/acc" in ran.out


def test_what_is_read_into_memory_gives_the_numbers_of_what_is_streamed(run_squares):
    words = ["data.is_random=false", "data/preprocess=standardize"]
    for name, more in {"streamed": [], "memory": ["data.in_memory=true"]}.items():
        ran = run_squares(*words, *more, "trainer.max_epochs=1", f"hydra.run.dir={name}")
        assert (ran.code, ran.err) == (0, "")
    assert "data.in_memory=true reads them once" in ran.out or name == "memory"
    assert_equal(Run("streamed"), Run("memory"))


@pytest.mark.slow
def test_two_processes_train_on_the_items_of_one(run_squares):
    words = ["trainer.accelerator=cpu", "model.norm=none", "trainer.precision=64-true", "init=kaiming"]
    assert run_squares(*words, "data.workers=1", "hydra.run.dir=one").code == 0
    ran = run_squares(*words, "data.workers=1", "trainer=ddp", "trainer.devices=2", *words, "hydra.run.dir=two")
    assert ran.code == 0, ran.err
    for name, value in states(Run("one")).items():
        torch.testing.assert_close(states(Run("two"))[name], value, rtol=1e-9, atol=1e-9)
    for stage in "train", "val", "test":
        assert Run("two").results[stage] == pytest.approx(Run("one").results[stage], rel=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.in_memory=true"], "data.in_memory=true would read the random items of the train Dataset once"),
        (["data.workers=-1"], "data.workers=-1: use 0 (no processes) or more"),
        (["~data.workers"], "data.workers is missing: begin its YAML with defaults: [base/datasets@_here_, _self_]"),
        (["data=digits", "+data.workers=1"], "data.workers is for functions that return Datasets, and digits does not"),
    ],
)
def test_settings_that_do_not_fit_are_refused(words, message, run_squares):
    ran = run_squares(*words)
    assert ran.code == 1 and message in ran.err and ran.err.count("\n") <= 2, ran.err


# items


class Made(Dataset):
    """Items that a function makes of their number."""

    def __init__(self, item, count=20, **attributes):
        self.item, self.count = item, count
        vars(self).update(attributes)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.item(index)


def source_of(item, **attributes):
    dataset = Made(item, **attributes)
    return Datasets(dataset, dataset).source(in_memory=False, workers=0)


GREY = Image.new("L", (4, 3), 7)


@pytest.mark.parametrize(
    ("value", "dtype", "shape"),
    [
        (GREY, torch.uint8, [1, 3, 4]),
        (GREY.convert("RGB"), torch.uint8, [3, 3, 4]),
        (GREY.convert("P"), torch.uint8, [3, 3, 4]),
        (Image.fromarray(np.full((3, 4), 60_000, dtype=np.uint16)), torch.uint16, [1, 3, 4]),
        (v2.functional.to_image(GREY), torch.uint8, [1, 3, 4]),
        (np.zeros(5), torch.float32, [5]),
        (torch.zeros(2, dtype=torch.int64), torch.int64, [2]),
        ([3.5], torch.float32, [1]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_inputs_become_tensors(value, dtype, shape):
    inputs = source_of(lambda index: (value, 0)).train_inputs
    assert (inputs.dtype, list(inputs.shape), type(inputs[3])) == (dtype, [20, *shape], torch.Tensor)
    assert list(inputs[torch.tensor([2, 1])].shape) == [2, *shape]
    assert len(inputs[::7]) == 3 and len(inputs[:0]) == 0


@pytest.mark.parametrize(
    ("target", "dtype", "shape"),
    [
        (lambda i: i % 2, torch.int64, [20]),
        (lambda i: torch.tensor(i % 2), torch.int64, [20]),
        (lambda i: np.float64(i), torch.float32, [20]),
        (lambda i: [0.5, i], torch.float32, [20, 2]),
        (lambda i: np.arange(3) == i % 3, torch.int64, [20, 3]),
    ],
)
def test_targets_that_are_not_listed_are_read_once(target, dtype, shape):
    targets = source_of(lambda index: (torch.zeros(1), target(index))).train_targets
    assert (targets.dtype, list(targets.shape)) == (dtype, shape)
    assert torch.equal(targets[3].float(), torch.as_tensor(target(3)).float())


def test_listed_targets_are_taken_where_the_items_have_the_same():
    reads = []

    def item(index):
        reads.append(index)
        return torch.zeros(1), index % 2

    assert source_of(item, targets=[i % 2 for i in range(20)]).train_targets.tolist() == [0, 1] * 10
    assert len(set(reads)) < 20
    transformed = source_of(item, targets=[5] * 20)  # what a target_transform has changed
    assert transformed.train_targets.tolist() == [0, 1] * 10


def test_a_part_of_a_dataset_has_its_classes_and_targets():
    whole = Made(lambda index: (torch.zeros(1), index % 2), targets=[i % 2 for i in range(20)], classes=["a", "b"])
    part = Subset(whole, [1, 3, 4])
    source = Datasets(part, part, val=whole).source(in_memory=False, workers=0)
    assert (source.train_targets.tolist(), source.class_names) == ([1, 1, 0], ("a", "b"))
    assert len(source.val_inputs) == 20


def sized(index):
    return torch.zeros(1, 4 + (index == 11), 4), 0


WRONG = [
    (lambda i: torch.zeros(3), "item 0 of the train Dataset is a Tensor; a Dataset gives (input, target), and where"),
    (lambda i: {"x": 1}, "item 0 of the train Dataset is a dict"),
    (lambda i: (1, 2, 3), "item 0 of the train Dataset is 3 values"),
    (lambda i: ("text", 0), "an input is a str; use a tensor"),
    (lambda i: (torch.zeros(1), "cat"), "a target is 'cat', a str; use a number"),
]


@pytest.mark.parametrize(("item", "message"), WRONG)
def test_wrong_items_are_named(item, message):
    with pytest.raises(UserError) as error:
        source_of(item)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_items_of_other_sizes_and_bugs_are_named_whoever_reads_them(workers):
    items = Items(Made(sized, 12), "train", workers)
    message = r"number 10 is float32 \[1, 4, 4\], number 11 is float32 \[1, 5, 4\]; give all one size and type"
    with pytest.raises(UserError, match=message):
        items[torch.tensor([10, 11])]
    items = Items(Made(buggy, 12), "train", workers)
    with pytest.raises(ItemError) as error:
        items[torch.tensor([4, 5])]
    first, _, rest = str(error.value).partition("\n")
    assert first == "item 5 of the train Dataset: KeyError: 'missing'"
    assert "Traceback" in rest and ", in buggy\n" in rest


def buggy(index):
    return torch.zeros(1), {}["missing"] if index == 5 else 0


def test_the_terminal_shows_where_a_dataset_fails(run_squares, tmp_path):
    code = CODE.replace("pixels =", "assert i != 151, 'broken'\n        pixels =")
    (tmp_path / "squares.py").write_text(code)
    ran = run_squares("data.workers=1", "hydra.run.dir=run")
    assert ran.code == 1
    said = "error: ItemError: item 151 of the train Dataset: AssertionError: broken\n  squares.py:24: assert i != 151"
    assert ran.err.startswith(said)
    assert "assert i != 151" in (tmp_path / "run" / "train.log").read_text()


class Endless(IterableDataset):
    def __iter__(self):
        yield torch.zeros(1), 0


def test_what_is_no_map_style_dataset_is_refused():
    fits = Made(lambda index: (torch.zeros(1), 0))
    with pytest.raises(UserError, match=r"Datasets\.train is a Endless, whose items have no numbers"):
        Datasets(Endless(), fits)
    with pytest.raises(UserError, match=r"Datasets\.val: the Made is empty"):
        Datasets(fits, fits, val=Made(None, 0))
    with pytest.raises(UserError, match=r"Datasets\.plain has 3 items and train 20"):
        Datasets(fits, fits, plain=Made(None, 3))
    with pytest.raises(UserError, match=r"test_inputs is float32 \[20, 2\] and train_inputs float32 \[20, 1\]"):
        Datasets(fits, Made(lambda index: (torch.zeros(2), 0))).source(in_memory=False, workers=0)


# randomness


DRAWS = {
    "torch": lambda: torch.rand(()).item(),
    "numpy": lambda: np.random.rand(),
    "random": random.random,
    "nothing": lambda: 0.0,
}


def drawing(which, first=0):
    draw = DRAWS[which]
    return Made(lambda index: (torch.tensor([draw() if index >= first else 0.0]), index % 2), 40)


@pytest.mark.parametrize("which", DRAWS)
def test_what_an_item_draws_depends_on_seed_epoch_and_number_alone(which):
    def read(parts, *moment, workers=0, first=0):
        items = Items(drawing(which, first), "train", workers)
        return torch.cat([inputs for _, inputs, _ in items.batches(iter(parts), *moment)])

    index = torch.arange(40)
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    whole = read([index], 0, 0)
    after = torch.rand(()).item(), np.random.rand(), random.random()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    assert after == (torch.rand(()).item(), np.random.rand(), random.random())  # as if nothing had been read
    assert torch.equal(whole, read(index.split(7), 0, 0, workers=2))
    assert torch.equal(whole.flip(0), read(index.flip(0).split(3), 0, 0))
    assert torch.equal(whole[20:], read([index], 0, 0, first=20)[20:])  # drawing begins in the middle of a batch
    for moment in (1, 0), (0, 1), ():
        assert torch.equal(whole, read([index], *moment)) is (which == "nothing")
    assert len(whole.unique()) == (1 if which == "nothing" else 40)


@pytest.mark.parametrize("which", DRAWS)
def test_random_items_are_recognised(which):
    assert draws_numbers(Items(drawing(which), "train", 0)) is (which != "nothing")


def test_a_transform_that_draws_and_changes_nothing_is_recognised_as_random():
    flip = v2.RandomHorizontalFlip(p=1e-9)
    assert draws_numbers(Items(Made(lambda index: (flip(torch.zeros(1, 2, 2)), 0)), "train", 0))


def test_a_generator_of_its_own_is_recognised_as_random():
    own = np.random.default_rng(0)
    assert draws_numbers(Items(Made(lambda index: (own.random(), 0)), "train", 0))


def test_validation_that_is_augmented_is_said(caplog):
    dataset = drawing("torch")
    with caplog.at_level(logging.INFO):
        Datasets(dataset, dataset).source(in_memory=False, workers=0)
    assert "validation and statistics have them so too; return Datasets(..., plain=" in caplog.text


# identity


def test_items_are_told_apart_by_dataset_and_number():
    def items(targets):
        return source_of(lambda index: (torch.zeros(1), targets[index]), targets=targets).train_inputs

    zeros, mixed = items([0] * 20), items([0, 1] * 10)
    index = torch.arange(20)
    hashes = image_hashes(zeros, index)
    assert len(hashes.unique()) == 20 and torch.equal(hashes, image_hashes(items([0] * 20), index))
    assert not torch.isin(image_hashes(mixed, index), hashes).any()


def test_the_hash_of_a_dataset_is_of_what_its_items_are():
    def hashed(value):
        source = source_of(lambda index: (torch.full((2,), value), 0))
        return hash_of(source.train_inputs, source.train_targets)

    assert hashed(1.0) == hashed(1.0) != hashed(2.0)
