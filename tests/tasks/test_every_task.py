"""Every task that is shipped: what a run, a resume, evaluate, predict, a sweep and a range test do with it."""

from functools import partial

import pytest
import torch
from PIL import Image

from athanor.engine.runs.run import Run, read_checkpoint

WORDS = {
    "classification": [],
    "attributes": [],
    "regression": ["model.dropout=0"],
    "autoencoder": ["model.widths=[16]"],
    "contrastive": ["task.dim=16", "data.augment.shift=1", "data.augment.rotate=10"],
}
EVERY = pytest.mark.parametrize("task", WORDS)
HEADLINES = {
    "classification": "acc", "attributes": "acc", "regression": "rmse", "autoencoder": "rmse", "contrastive": "match"
}  # fmt: skip


@pytest.fixture
def run_task(train):
    """Trains a small network with a task on 400 digits, for two epochs of 5 steps."""
    small = ["model=mlp", "model.widths=[16]", "data.limit=400", "data.batch_size=64", "trainer.max_epochs=2"]
    return lambda task, *more: train(f"task={task}", *small, *WORDS[task], *more)


@EVERY
def test_it_is_trained_averaged_evaluated_and_predicts(task, run_task, run_here, tmp_path):
    ran = run_task(task, "hydra.run.dir=run", "callbacks=[ema,lr_range]", "callbacks.lr_range.sweeps=1")
    assert (ran.code, ran.err) == (0, "")
    run = Run("run")
    assert run.headline == HEADLINES[task]
    assert run.results["test"].keys() >= run.measures.keys() and f"test     {run.headline}" in ran.out
    assert (tmp_path / "run" / "reconstructions.png").exists() is (task == "autoencoder")
    ran = run_here("scripts/evaluate.py", "run")
    for name, value in run.results["test"].items():
        assert f"test/{name}  {value!r}  (recorded {value!r})" in ran.out, ran.err
    Image.new("L", (8, 8), 100).save("a.png")
    ran = run_here("scripts/predict.py", "run", "a.png", "--csv", "a.csv")
    assert ran.code == 0 and ran.out.startswith("a.png  "), ran.err


@EVERY
def test_it_goes_on_to_the_bit(task, run_task, assert_resumed):
    assert_resumed(partial(run_task, task), "callbacks=ema", "eval.test=false", places=[7])


@EVERY
@pytest.mark.slow
def test_it_goes_on_to_the_bit_from_anywhere(task, run_task, assert_resumed):
    assert_resumed(partial(run_task, task))


@EVERY
def test_seeds_are_swept_and_shown_by_its_headline(task, run_task):
    ran = run_task(task, "-m", "seed=0,1", "hydra.sweep.dir=sweep", "trainer.max_epochs=1")
    assert (ran.code, ran.err) == (0, "")
    assert f"2 seeds  val/{HEADLINES[task]} " in ran.out


@EVERY
@pytest.mark.slow
def test_two_processes_measure_what_one_does(task, run_task):
    # in float64 and without norms, which see the images of one process only; validation in one batch for each process
    words = ["trainer.accelerator=cpu", "model.norm=none", "trainer.precision=64-true", "init=kaiming"]
    assert run_task(task, *words, "hydra.run.dir=one").code == 0
    assert run_task(task, *words, "trainer=ddp", "trainer.devices=2", *words, "hydra.run.dir=two").code == 0
    one, two = (Run(name) for name in ("one", "two"))
    states = [read_checkpoint(run.dir / "checkpoints" / "last.ckpt")["state_dict"] for run in (one, two)]
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-9, atol=1e-9)
    if task != "contrastive":  # which compares with the images of a batch, and each process has its own in validation
        for stage in "train", "val", "test":
            assert two.results[stage] == pytest.approx(one.results[stage], rel=1e-5)


def test_a_recorded_run_is_not_repeated_with_another_task(run_task, train):
    assert run_task("classification", "hydra.run.dir=run", "trainer.max_epochs=1").code == 0
    ran = train("run=run", "task=regression")
    assert ran.code == 1 and "task=regression brings options of other groups with it (loss)" in ran.err
    assert ran.err.count("\n") == 2


@pytest.mark.parametrize(
    ("task", "words", "message"),
    [
        (
            "attributes",
            ["loss=cross_entropy"],
            "loss=cross_entropy does not fit the task Attributes; use logistic",
        ),
        ("regression", ["loss=hinge"], "loss=hinge does not fit the task Regression; use mse, mae, huber"),
        ("classification", ["loss=mse"], "loss=mse does not fit the task Classification; use cross_entropy, hinge"),
        ("autoencoder", ["eval.tta=flip"], "task=autoencoder has none; type eval.tta=none"),
        (
            "contrastive",
            ["data.views=1"],
            "the task Contrastive takes 2 of each image in a batch; type data.views=2",
        ),
        ("contrastive", ["data.augment.shift=0", "data.augment.rotate=0"], "data.views=2 gives equal inputs"),
        ("contrastive", ["data.augment.flip=alternating"], "type flip=true"),
        ("contrastive", ["task.dim=1"], "task.dim=1: use 2 or more"),
        ("contrastive", ["loss.temperature=0"], "loss.temperature=0: use a number above 0"),
        ("classification", ["data.views=2", "data.augment.shift=1"], "the task Classification takes 1 of each image"),
        ("regression", ["monitor.metric=val/acc"], "val/acc is not logged"),
        ("regression", ["callbacks=ensemble"], "combines probabilities of classes, and the task Regression has none"),
    ],
)
def test_what_does_not_fit_it_is_refused_before_the_first_step(task, words, message, run_task):
    ran = run_task(task, *words)
    assert ran.code == 1 and message in ran.err and ran.err.count("\n") <= 2, ran.err
