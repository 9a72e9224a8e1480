"""`from athanor import compose, train`: as train.py, in a process that goes on."""

import logging
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hydra.core.hydra_config import HydraConfig

import athanor
from athanor.base.errors import UserError
from athanor.engine.config import options
from athanor.engine.runs.run import Run, read_checkpoint

WORDS = ["model=mlp", "model.widths=[8]", "data.limit=400", "trainer.max_epochs=2", "compute.threads=1"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, repo):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(options, "CONFIGS", repo / "configs")
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # as in a notebook; the command line's own tests look at them
        yield


def test_it_trains_what_the_command_line_trains_any_number_of_times(train):
    assert train(*WORDS, "optim.lr=0.01", "hydra.run.dir=typed").code == 0
    cfg = athanor.compose(*WORDS)
    cfg.optim.lr = 0.01
    handlers, job = logging.getLogger().handlers[:], HydraConfig.instance().cfg
    first, second = athanor.train(cfg), athanor.train(cfg)
    assert first.dir != second.dir and first.dir.parent == second.dir.parent
    states = [read_checkpoint(run.checkpoint)["state_dict"] for run in (Run("typed"), first, second)]
    for state in states[1:]:
        assert all(torch.equal(value, state[name]) for name, value in states[0].items())
    assert (logging.getLogger().handlers, HydraConfig.instance().cfg) == (handlers, job)
    assert all("epoch   2/2" in (run.dir / "train.log").read_text() for run in (first, second))
    assert first.config["name"] == "mlp_digits" and first.results["status"] == "finished"


def test_a_run_gives_its_history_and_predicts():
    run = athanor.train(athanor.compose(*WORDS, "eval.test=false"))
    steps, values = run.history["val/acc"]
    assert steps.dtype == np.int64 and len(steps) == 2 and values[-1] == pytest.approx(run.results["val"]["acc"])
    images = torch.randint(0, 256, (600, 1, 8, 8), dtype=torch.uint8)
    probabilities = run.predict(images)
    assert probabilities.shape == (600, 10)
    torch.testing.assert_close(probabilities, run.classifier()(images).softmax(1).detach())
    assert Run("nowhere").history == {}


def test_what_ends_a_run_is_raised_and_written_down(tmp_path):
    cfg = athanor.compose(*WORDS, "optim=sgd", "optim.lr=1e30", "model.norm=none")
    with pytest.raises(FloatingPointError, match="the train loss is"):
        athanor.train(cfg)
    [results] = tmp_path.glob("outputs/*/*/results.json")
    assert Run(results.parent).results["status"] == "failed"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=cn"], "did you mean cnn"),
        (["seed=1,2"], r"a sweep is a loop over train\(cfg\)"),
        (["study=learning_rates"], "starts many jobs; type python train.py"),
    ],
)
def test_wrong_words_are_explained(words, message):
    with pytest.raises(UserError, match=message):
        athanor.compose(*words)


def test_a_wrong_value_is_refused_before_training(tmp_path):
    cfg = athanor.compose(*WORDS)
    cfg.optim.lr = -1.0
    with pytest.raises(UserError, match=r"optim\.lr=-1\.0 is negative"):
        athanor.train(cfg)
    assert not list(tmp_path.glob("outputs/*/*"))


def test_hydra_is_imported_when_it_is_needed():
    code = "import athanor, sys; assert 'hydra' not in sys.modules; athanor.compose; assert 'hydra' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        athanor.trian  # noqa: B018
