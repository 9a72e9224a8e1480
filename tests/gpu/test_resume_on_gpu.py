"""A run on a GPU that is resumed owes to the one that was stopped what it owes on a processor: every bit."""

import csv

import pytest
import torch

from athanor.callbacks.checkpoints import Checkpoints
from athanor.callbacks.stopwatch import Stopwatch
from athanor.engine.runs.run import Run, read_checkpoint

pytestmark = pytest.mark.gpu

# 9 steps an epoch
WORDS = ["trainer=gpu", "trainer.deterministic=true", "data.limit=320", "data.batch_size=32", "trainer.max_epochs=3"]
WORDS += ["trainer.log_every_n_steps=1"]
EACH_STEP = "callbacks.checkpoints.every_minutes=1e-9"
RUNS = {
    "mlp": ["model=mlp", "model.dropout=0.2"],
    "cnn": ["model=cnn", "data.augment.crop=1", "data.augment.flip=true", "callbacks=ema"],
    "resnet, bfloat16": ["model=resnet", "model.depth=8", "trainer.precision=bf16-mixed", "optim=nesterov"],
    "mlp, float16": ["model=mlp", "model.dropout=0.2", "trainer.precision=16-mixed"],
    "cnn, float16": ["model=cnn", "trainer.precision=16-mixed", "scheduler=cosine", "optim=muon"],
}
PLACES = {  # where the process is killed, after which step, and whether each step was saved
    "within an epoch": (Stopwatch, "on_train_batch_end", 13, [EACH_STEP]),
    "within an epoch, of which nothing was saved": (Stopwatch, "on_train_batch_end", 13, []),
    "at the end of an epoch": (Checkpoints, "on_train_epoch_end", 18, []),
}


class Killed(BaseException):
    """As SIGKILL: nothing catches it, and nothing is tidied up."""


@pytest.fixture
def killed(train, monkeypatch):
    """A run in the folder `parts` that ends at one of the places, as if its process had been killed there."""

    def killed(place, *words):
        owner, hook, step, _ = PLACES[place]
        original = getattr(owner, hook)

        def killing(self, trainer, *arguments):
            if trainer.global_step == step:
                raise Killed
            return original(self, trainer, *arguments)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(owner, hook, killing)
            train(*words, "hydra.run.dir=parts")

    return killed


def rows(run):
    with open(run.dir / "metrics.csv") as file:
        return sorted(tuple(row.values()) for row in csv.DictReader(file))


def assert_equal(whole, parts):
    for name in "last", "best":
        a, b = (read_checkpoint(run.dir / "checkpoints" / f"{name}.ckpt") for run in (whole, parts))
        assert a["global_step"] == b["global_step"]
        assert a.get("MixedPrecision") == b.get("MixedPrecision")
        for key in "state_dict", "optimizer_states":
            assert differences(a[key], b[key]) == []
    for stage in "train", "val", "test":
        assert parts.results[stage] == whole.results[stage]
    assert rows(parts) == rows(whole)


def differences(a, b, name=""):
    """The names of tensors and plain values, in nested containers, that are not equal to the bit."""
    if isinstance(a, dict):
        return [place for key in a | b for place in differences(a.get(key), b.get(key), f"{name}.{key}")]
    if isinstance(a, (list, tuple)) and len(a) == len(b):
        return [place for i, pair in enumerate(zip(a, b, strict=True)) for place in differences(*pair, f"{name}.{i}")]
    equal = torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b
    return [] if equal else [name]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", RUNS)
def test_a_run_that_was_killed_ends_as_one_that_was_not(kind, place, killed, train):
    words = [*WORDS, *RUNS[kind], *PLACES[place][-1]]
    assert train(*words, "hydra.run.dir=whole").code == 0
    killed(place, *words)
    ran = train("resume=parts")
    assert ran.code == 0, ran.err
    assert_equal(Run("whole"), Run("parts"))


def test_the_gradient_scaler_goes_on_with_its_scale_and_its_count(killed, train, monkeypatch):
    words = [*WORDS, *RUNS["mlp, float16"], EACH_STEP]
    killed("within an epoch", *words)
    kept = read_checkpoint(Run("parts").dir / "checkpoints" / "last.ckpt")
    assert 0 < kept["MixedPrecision"]["_growth_tracker"] <= kept["global_step"]
    assert train("resume=parts").code == 0
    ended = read_checkpoint(Run("parts").dir / "checkpoints" / "last.ckpt")
    steps = ended["global_step"] - kept["global_step"]
    assert ended["MixedPrecision"]["_growth_tracker"] == kept["MixedPrecision"]["_growth_tracker"] + steps
    assert ended["MixedPrecision"]["scale"] == kept["MixedPrecision"]["scale"] > 0


def test_a_run_that_is_repeated_gives_the_same_to_the_last_digit(train):
    assert train(*WORDS, *RUNS["cnn"], "hydra.run.dir=first").code == 0
    assert "the same as in first, to the last digit" in train("run=first", "hydra.run.dir=second").out
