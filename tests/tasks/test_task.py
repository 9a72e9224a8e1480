"""A task of one's own is one Python file and one YAML: a regression of one number, with another headline."""

import csv
import math
import os

import pytest
import torch

from athanor.base.errors import UserError
from athanor.engine.config import monitors
from athanor.engine.runs.run import Run, read_checkpoint
from athanor.tasks import measure
from athanor.tasks.classification import Classification
from athanor.tasks.measure import LOSS, Measure, measure_of

FILES = {
    "code/brightness.py": """
import dataclasses
import math

from athanor.data.sources import digits as classes
from athanor.data.sources.source import Source
from athanor.tasks.measure import LOSS, Measure
from athanor.tasks.task import Task

class Brightness(Task):
    measures = {"rmse": Measure("min", "grey"), "loss": LOSS}
    summed = ("rmse",)

    def __init__(self, *parts, scale: float, **settings):
        super().__init__(*parts, **settings)
        self.scale = scale

    def forward(self, inputs):
        return self.scale * super().forward(inputs).squeeze(1)

    def sums(self, outputs, targets):
        return {"rmse": (outputs - targets).square().sum()}

    def measured(self, sums, count):
        return {"rmse": math.sqrt(sums["rmse"] / count)}

def mean_grey(images):
    return images.float().mean((1, 2, 3))

def digits() -> Source:
    source = classes.digits()
    targets = {f"{part}_targets": mean_grey(getattr(source, f"{part}_inputs")) for part in ("train", "test")}
    return dataclasses.replace(source, **targets, class_names=())
""",
    "configs/task/brightness.yaml": """
defaults: [override /loss@_global_.loss: mse, _self_]
_target_: brightness.Brightness
scale: 10.0
""",
    "configs/loss/mse.yaml": "_target_: torch.nn.MSELoss\n",
    "configs/data/grey.yaml": "defaults: [base/default@_here_, _self_]\n_target_: brightness.digits\nbatch_size: 64\n",
    "configs/study/grey.yaml": """
# @package _global_
hydra:
  mode: MULTIRUN
  sweeper: {params: {optim.lr: "1e-5,1e-2", seed: "0,1"}}
study:
  title: Brightness of digits
  panels:
    - {x: epoch, y: val/rmse}
    - {x: optim.lr, y: val/rmse, log_x: true}
""",
}


@pytest.fixture
def brightness(tmp_path, monkeypatch, train):
    """Runs train.py with the task of these files, which lie outside the package, for one epoch of 400 images."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text.lstrip())
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"), prepend=os.pathsep)  # for processes that a run starts
    words = ["--config-dir", tmp_path / "configs", "task=brightness", "data=grey", "model=mlp", "data.limit=400"]
    return lambda *more: train(*words, "trainer.max_epochs=1", *more)


def test_it_is_trained_written_and_evaluated_in_its_own_words(brightness, run_here):
    ran = brightness(
        "hydra.run.dir=run", "trainer.max_epochs=2", "callbacks=[ema,lr_range]", "callbacks.lr_range.sweeps=1"
    )
    assert (ran.code, ran.err) == (0, "")
    run = Run("run")
    val, test = run.results["val"], run.results["test"]
    assert (run.headline, run.measures) == ("rmse", {"rmse": Measure("min", "grey"), "loss": LOSS})
    assert test.keys() == {"rmse", "loss"} and val.keys() == {"rmse", "loss", "rmse_raw", "loss_raw"}
    assert test["rmse"] == pytest.approx(math.sqrt(test["loss"]), rel=1e-6)
    assert f"rmse {test['rmse']:.4f} grey   loss {test['loss']:.4f}" in ran.out
    assert f"val rmse {val['rmse']:.4f} grey loss {val['loss']:.4f}" in ran.out
    assert read_checkpoint(run.checkpoint)["athanor"]["class_names"] == ["output_0"]
    ran = run_here("scripts/evaluate.py", "run")
    assert f"test/rmse  {test['rmse']!r}  (recorded {test['rmse']!r})" in ran.out, ran.err


def test_it_predicts_numbers(brightness, run_here, tmp_path):
    from PIL import Image

    assert brightness("hydra.run.dir=run").code == 0
    Image.new("L", (8, 8), 100).save("a.png")
    ran = run_here("scripts/predict.py", "run", "a.png", "--csv", "a.csv")
    output = Run("run").task()(torch.full((1, 1, 8, 8), 100, dtype=torch.uint8)).item()
    assert ran.out == f"a.png  {output:.6g}\n"
    with open("a.csv", newline="") as file:
        assert list(csv.reader(file)) == [["file", "output_0"], ["a.png", f"{output:.6g}"]]


@pytest.mark.parametrize("step", [3, 5])  # of 5 in an epoch
def test_it_goes_on_to_the_bit(step, brightness, train, interrupted, assert_same):
    words = ["trainer.max_epochs=2", "model.dropout=0.2", "callbacks.checkpoints.every_minutes=1e-9"]
    assert brightness(*words, "hydra.run.dir=whole").code == 0
    with interrupted(step):
        assert brightness(*words, "hydra.run.dir=parts").code != 0
    assert train("resume=parts").code == 0
    assert_same("whole", "parts")


def test_it_is_swept_and_drawn_with_the_smaller_value_as_the_better(brightness, tmp_path):
    ran = brightness("study=grey", "hydra.sweep.dir=sweep", "eval.test=false")
    assert (ran.code, ran.err) == (0, "")
    assert (tmp_path / "sweep" / "figures" / "grey.png").stat().st_size > 10_000
    with open("sweep/study.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    values = [float(row["val/rmse"]) for row in rows]
    assert values == sorted(values) and rows[0]["optim.lr"] == "0.01" and rows[0]["n"] == "2"
    assert "test/rmse" not in rows[0]
    assert f"val/rmse {values[0]:.4f} grey +- " in ran.out


def test_seeds_have_a_mean_and_an_interval(brightness):
    ran = brightness("-m", "seed=0,1", "hydra.sweep.dir=sweep")
    runs = [Run(f"sweep/{job}_seed={job}") for job in (0, 1)]
    tests = [run.results["test"]["rmse"] for run in runs]
    assert f"test/rmse {tests[0]:.4f} grey" in ran.out
    assert f"test/rmse {sum(tests) / 2:.4f} grey +- {abs(tests[0] - tests[1]) / math.sqrt(2):.4f} grey (" in ran.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["task=classification"],
            "task=classification takes class indices, int64 [N], and this data has targets float32",
        ),
        (["monitor.metric=val/acc"], "val/acc is not logged; choose from: train/loss, train/rmse, val/loss, val/rmse"),
        (["monitor={metric: val/rmse, mode: max}"], "val/rmse is better when it is lower; type monitor.mode=min"),
        (
            ["callbacks=ensemble"],
            "callbacks=ensemble combines probabilities of classes, and the task Brightness has none",
        ),
        (["task.scale=high"], "task.scale=high: Brightness takes float"),
        (["task=clasification"], "task=clasification does not exist; did you mean classification?"),
    ],
)
def test_what_does_not_fit_it_is_refused_in_a_sentence(words, message, brightness):
    ran = brightness(*words)
    assert ran.code == 1 and message in ran.err and ran.err.count("\n") <= 2


def test_tools_of_classes_say_so(brightness, run_here):
    assert brightness("hydra.run.dir=run").code == 0
    for script, *flags in ["scripts/export.py", "--format", "torch"], ["scripts/ensemble.py", "run", "--checkpoints"]:
        ran = run_here(script, "run", *flags)
        assert ran.code == 1, ran.out
    with pytest.raises(UserError, match="is of the task Brightness; this needs one of task=classification"):
        Run("run").classifier()


@pytest.mark.slow
def test_two_processes_measure_what_one_does(brightness):
    words = ["trainer.accelerator=cpu", "model.norm=none", "data.eval_batch_size=7"]
    assert brightness(*words, "hydra.run.dir=one").code == 0
    assert (
        brightness(*words, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "hydra.run.dir=two").code == 0
    )
    one, two = (Run(name).results for name in ("one", "two"))
    for stage in "train", "val", "test":
        assert two[stage] == pytest.approx(one[stage], rel=1e-5)


def test_labels_outside_the_classes_are_named(source):
    import dataclasses

    with pytest.raises(UserError, match=r"lie in 1\.\.4, and 4 class_names are for 0\.\.3; return train_targets - 1"):
        dataclasses.replace(source, train_targets=source.train_targets + 1)
    with pytest.raises(UserError, match="needs the names of the classes"):
        Classification.check_source(dataclasses.replace(source, class_names=()))


def test_a_metric_has_the_measure_whose_name_it_begins_with():
    measures = {"acc": Measure("max", "%"), "acc_top5": Measure("max"), "loss": LOSS}
    names = {"val/acc": "acc", "test/acc_tta": "acc", "acc": "acc", "val/acc/cat": "acc", "val/acc_top5": "acc_top5"}
    for metric, name in {**names, "val/loss_raw": "loss"}.items():
        assert measure_of(metric, measures) is measures[name]
    assert measure_of("seconds", measures) is measure_of("val/accent", measures) is None
    assert [Measure("max", "%").written(0.98254), Measure("min", "cm").written(2.0)] == ["98.25%", "2.0000 cm"]


def test_what_a_run_logs_is_asked_of_the_task(compose):
    from athanor.engine.config.check import plain

    config = plain(compose("metrics=macro_f1"))
    logged = monitors.logged_metrics(config)
    assert logged == {
        "train/acc": "max", "train/loss": "min", "val/acc": "max", "val/loss": "min", "val/macro_f1": None
    }  # fmt: skip


@pytest.mark.parametrize(
    ("share", "count", "low", "high"),
    [(0.25, 4, 0.0456, 0.6994), (0.5, 100, 0.4038, 0.5962), (1.0, 10, 0.7225, 1.0), (0.0, 359, 0.0, 0.0106)],
)
def test_the_interval_of_a_share_is_that_of_wilson(share, count, low, high):
    assert measure.sampling_interval(share, count) == pytest.approx((low, high), abs=1e-4)
