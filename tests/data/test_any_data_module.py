"""A person's own LightningDataModule as a data set."""

from functools import partial
from textwrap import dedent

import pytest

from athanor.engine.runs.run import Run, read_checkpoint

CODE = """
import lightning.pytorch as L
import torch
from torch.utils.data import DataLoader, Dataset, random_split


class Noisy(Dataset):
    def __len__(self):
        return 200

    def __getitem__(self, i):
        return torch.full((1, 6, 6), float(i % 3)) + 0.5 * torch.randn(1, 6, 6), i % 3


class Module(L.LightningDataModule):
    num_classes = 3

    def __init__(self, batch_size: int, workers: int, data_dir: str):
        super().__init__()
        self.batch_size, self.workers, self.data_dir = batch_size, workers, data_dir

    def setup(self, stage):
        self.train, self.val = random_split(Noisy(), [160, 40])

    def loader(self, dataset, **settings):
        return DataLoader(dataset, self.batch_size, num_workers=self.workers, **settings)

    def train_dataloader(self):
        return self.loader(self.train, shuffle=True)

    def val_dataloader(self):
        return self.loader(self.val)

    def test_dataloader(self):
        return self.loader(self.val)


class Untested(Module):
    test_dataloader = L.LightningDataModule.test_dataloader


class Dicts(Module):
    def train_dataloader(self):
        return [{"x": 1}]
"""
YAML = "_target_: loaders.{}\nbatch_size: 32\nworkers: 0\n"
WORDS = ["model=mlp", "model.widths=[8]", "trainer.max_epochs=2"]


@pytest.fixture
def run_loaders(tmp_path, monkeypatch, train):
    (tmp_path / "loaders.py").write_text(dedent(CODE))
    (tmp_path / "configs" / "data").mkdir(parents=True)
    for kind in "Module", "Untested", "Dicts":
        (tmp_path / "configs" / "data" / f"{kind.lower()}.yaml").write_text(YAML.format(kind))
    monkeypatch.syspath_prepend(str(tmp_path))
    return lambda *words: train("--config-dir", tmp_path / "configs", *WORDS, *words)


def test_it_is_trained_resumed_to_the_bit_and_evaluated(run_loaders, run_here, assert_resumed):
    assert_resumed(partial(run_loaders, "data=module"), places=[5])
    a = Run("whole")
    assert "Module is a LightningDataModule: which inputs it trains" in (a.dir / "train.log").read_text()
    assert "trained" not in read_checkpoint(a.checkpoint)["athanor"]
    ran = run_here("scripts/evaluate.py", "whole")
    assert f"(recorded {a.results['test']['acc']!r})" in ran.out, ran.err


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_it_goes_on_to_the_bit_from_anywhere(workers, run_loaders, assert_resumed):
    assert_resumed(partial(run_loaders, "data=module", f"data.workers={workers}"))


def test_seeds_are_swept(run_loaders):
    ran = run_loaders("data=module", "-m", "seed=0,1", "hydra.sweep.dir=sweep", "trainer.max_epochs=1")
    assert (ran.code, ran.err) == (0, "")
    assert "2 seeds  val/acc" in ran.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=module", "+data.val_fraction=0.2"], "data.val_fraction: Module has no 'val_fraction'"),
        (["data=untested"], "Untested has no test_dataloader; type eval.test=false"),
        (["data=dicts"], "a batch of Dicts is a dict; tasks of Athanor take (inputs, targets)"),
        (["data=module", "callbacks=ensemble"], "callbacks.ensemble needs inputs with numbers, and Module gives"),
        (
            ["data=module", "optim=lbfgs", "data.batch_size=32"],
            "optim=lbfgs needs all inputs in one batch, and Module",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(words, message, run_loaders):
    ran = run_loaders(*words)
    assert ran.code == 1 and message in ran.err and ran.err.count("\n") <= 2, ran.err
