"""A run that finds its learning rate is the run that was started with it."""

import lightning.pytorch as L
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from athanor.callbacks.lr_range import LRRange
from athanor.engine.config import assemble, check
from athanor.engine.runs.run import Run, read_checkpoint

TINY = [
    "model=mlp",
    "model.widths=[32]",
    "data.limit=320",
    "data.batch_size=32",
    "trainer.max_epochs=2",
    "eval.test=false",
]
FIND = ["callbacks=lr_range", "callbacks.lr_range.steps=25", "callbacks.lr_range.sweeps=1"]
EVERY = [  # each optimizer and each schedule
    ["optim=sgd", "scheduler=step"],
    ["optim=momentum", "scheduler=multistep", "scheduler.momentum=rise"],
    ["optim=nesterov", "scheduler=one_cycle", "scheduler.warmup=0.2", "scheduler.momentum=cycle"],
    ["optim=adam", "scheduler=plateau", "scheduler.warmup=1", "trainer.precision=bf16-mixed"],
    ["optim=adamw", "scheduler=exponential"],
    ["optim=adagrad", "scheduler=inverse"],
    ["optim=rmsprop", "scheduler=one_over_t"],
    ["optim=muon", "scheduler=polynomial"],
    ["optim=sgd", "optim.lr_scaling=linear", "scheduler=cosine", "trainer.accumulate_grad_batches=2"],
    ["optim=adam", "scheduler=cosine_restarts"],
    ["optim=muon", "scheduler=constant", "optim.bias_lr=0.01"],
]


def weights(name):
    return read_checkpoint(Run(name).dir / "checkpoints" / "last.ckpt")["state_dict"]


def assert_equal_weights(a, b):
    one, other = weights(a), weights(b)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.fixture
def fit(compose, tmp_path, monkeypatch):
    """The weights that these words end with, and what to type for the learning rate that was found."""
    monkeypatch.setattr(LRRange, "_show", lambda self, trainer, test: None)

    def fit(*words):
        config = check.plain(compose(*TINY, "logger=[]", "callbacks.progress=null", *words))
        L.seed_everything(config["seed"], verbose=False)
        data = assemble.data(config)
        classifier = assemble.task(config, data)
        trainer = assemble.trainer(config, str(tmp_path), data, classifier)
        trainer.fit(classifier, data)
        results = [callback.results["lr_range"] for callback in trainer.callbacks if isinstance(callback, LRRange)]
        return classifier.state_dict(), results and results[0]["overrides"]

    return fit


@pytest.mark.parametrize("words", EVERY, ids=lambda words: " ".join(word.partition("=")[2] for word in words))
def test_it_trains_as_if_the_answer_had_been_typed(words, fit):
    state, typed = fit(*words, *FIND)
    assert any(word.startswith("optim.lr=") for word in typed)
    again, _ = fit(*words, *typed)
    assert [name for name in state if not torch.equal(state[name], again[name])] == []
    other, _ = fit(*words)  # at the configured rate
    assert not torch.equal(state["network.head.weight"], other["network.head.weight"])


@pytest.fixture
def ran(train):
    ran = train(*TINY, *FIND, "callbacks.lr_range.sweeps=3", "hydra.run.dir=whole")
    assert (ran.code, ran.err) == (0, "")
    return ran


def test_it_says_what_the_rules_say_and_draws_the_curve(ran):
    results = Run("whole").results["lr_range"]
    assert results["rule"] == "minimum"
    assert results["overrides"] == [f"optim.lr={results['minimum']['lr']:g}"]
    for rule in "minimum", "steepest":
        assert f"{rule:9} {results[rule]['lr']:<8.2g}" in ran.out
        assert results[rule]["spread"] >= 1
    assert f"to start with it: {results['overrides'][0]}\n" in ran.out
    assert (Run("whole").dir / "figures" / "lr_range.png").read_bytes().startswith(b"\x89PNG")
    assert EventAccumulator("whole").Reload().Tags()["images"] == ["lr_range"]
    rows = (Run("whole").dir / "figures" / "lr_range.csv").read_text().splitlines()
    assert rows[0] == "sweep,lr,loss,smoothed"
    assert {row.partition(",")[0] for row in rows[1:]} == {"0", "1", "2"}


def test_the_logged_rate_is_the_one_that_was_found(ran):
    rows = [row.split(",") for row in (Run("whole").dir / "metrics.csv").read_text().splitlines()]
    logged = {float(value) for _, _, metric, value in rows if metric == "lr"}
    assert logged == {Run("whole").results["lr_range"]["minimum"]["lr"]}


def test_a_resumed_run_keeps_what_was_found(ran, train, monkeypatch):
    words = [*TINY, *FIND, "callbacks.lr_range.sweeps=3"]
    assert train(*words, "trainer.max_epochs=1", "hydra.run.dir=half").code == 0
    with monkeypatch.context() as patch:
        patch.setattr("athanor.callbacks.lr_range.range_test", None)  # it is not called
        ran = train("resume=half", "trainer.max_epochs=2")
    assert (ran.code, ran.err) == (0, "")
    assert_equal_weights("whole", "half")
    assert Run("half").results["lr_range"] == Run("whole").results["lr_range"]


def test_another_rule_and_another_range_are_used(train):
    assert train(*TINY, *FIND, "callbacks.lr_range.rule=steepest", "hydra.run.dir=steepest").code == 0
    results = Run("steepest").results["lr_range"]
    assert results["overrides"] == [f"optim.lr={results['steepest']['lr']:g}"]
    ran = train(*TINY, *FIND, "callbacks.lr_range.max_lr=1e-3", "hydra.run.dir=low")
    assert (
        "cannot be trusted: the loss still falls at 0.001: use a larger callbacks.lr_range.max_lr" in ran.out + ran.err
    )
    assert Run("low").results["lr_range"]["minimum"]["lr"] <= 2e-4


# sweeps over batches of two images: the first of the losses may be the lowest, by accident
NOISY = ["model=linear", "optim=sgd", "data.batch_size=2", "callbacks.lr_range.sweeps=3", "hydra.run.dir=noisy"]


def test_a_run_does_not_train_with_an_answer_that_is_an_accident(train):
    ran = train("callbacks=lr_range", *NOISY)
    assert ran.code == 1
    assert ran.err.startswith("error: callbacks=lr_range: the sweeps answer 2.0e-07 to ")
    assert (ran.err.count("\n"), "to start with it" in ran.out) == (2, False)
    assert (Run("noisy").dir / "figures" / "lr_range.png").is_file()
    assert not list(Run("noisy").dir.glob("checkpoints/*"))
    words = ["callbacks.lr_range.smoothing=0.98", "callbacks.lr_range.steps=400", "trainer.max_steps=1"]
    ran = train("callbacks=lr_range", *NOISY[:-1], *words)  # what it says to type
    assert (ran.code, ran.err) == (0, "")


@pytest.mark.parametrize(
    "words, text",
    [
        (["min_lr=1", "max_lr=0.1"], "min_lr=1 and max_lr=0.1 are no range; use 0 < min_lr < max_lr"),
        (["min_lr=0"], "min_lr=0 and max_lr=10 are no range; use 0 < min_lr < max_lr"),
        (["steps=5"], "steps=5 are too few to see a curve; use 20 or more"),
        (["sweeps=0"], "sweeps=0: use 1 or more"),
        (["smoothing=1"], "smoothing=1: use 0 (none) to below 1"),
        (["rule=best"], "rule=best: LRRange takes minimum, steepest"),
    ],
    ids=lambda value: str(value),
)
def test_wrong_knobs_end_in_one_line(words, text, train):
    ran = train(*TINY, "callbacks=lr_range", *(f"callbacks.lr_range.{word}" for word in words))
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert f"error: callbacks.lr_range.{text}" in ran.err


def test_lbfgs_is_refused_with_a_sentence(train):
    ran = train("model=linear", "optim=lbfgs", "callbacks=lr_range", "data.limit=100")
    assert ran.code == 1
    assert ran.err == (
        "error: callbacks=lr_range: optim=lbfgs finds the length of each step itself; leave lr_range out\n"
    )


@pytest.mark.slow
def test_two_processes_find_what_one_finds(train, tmp_path):
    words = [*TINY, *FIND, "model.norm=none", "optim=momentum", "trainer.max_epochs=1"]
    assert train(*words, "hydra.run.dir=one").code == 0
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "hydra.run.dir=two"]
    ran = train(*words, *two)
    assert (ran.code, ran.err) == (0, "")
    assert Run("two").results["devices"] == 2
    assert Run("two").results["lr_range"] == Run("one").results["lr_range"]
    assert (tmp_path / "two" / "figures" / "lr_range.csv").read_text().count("\n") > 20
    for name, value in weights("one").items():
        torch.testing.assert_close(weights("two")[name], value, rtol=0, atol=1e-4)
