"""Metrics that are no single numbers: vectors, dicts and matrices."""

import csv

import pytest
import torch

from athanor.base.errors import UserError
from athanor.engine.config import assemble, check
from athanor.engine.runs.run import Run
from athanor.tasks.metric_values import metric_parts

SMALL = ["model=mlp", "model.widths=[16]", "data.limit=400", "data.batch_size=64", "trainer.max_epochs=2"]
MATRIX = [*SMALL, "metrics=confusion_matrix"]


def names(value, outputs=("cat", "dog")):
    return [(name, tuple(part.shape)) for name, part in metric_parts("val/x", value, outputs)]


def test_each_kind_of_value_has_names():
    assert names(torch.tensor(1.0)) == names(1.0) == [("val/x", ())]
    assert names(torch.zeros(2)) == [("val/x/cat", ()), ("val/x/dog", ())]
    assert names(torch.zeros(3)) == [("val/x/0", ()), ("val/x/1", ()), ("val/x/2", ())]
    assert names(torch.zeros(3, 4)) == [("val/x", (3, 4))]
    assert names({"a": torch.tensor(1), "b": {"c": torch.zeros(2)}}) == [
        ("val/x/a", ()), ("val/x/b/c/cat", ()), ("val/x/b/c/dog", ())
    ]  # fmt: skip
    assert names(torch.zeros(2, 2, 2)) == [("val/x/cat", (2, 2)), ("val/x/dog", (2, 2))]  # of labels


def test_the_points_of_a_curve_are_refused():
    with pytest.raises(UserError, match=r"metrics: val/x is a tuple, and what is logged"):
        names((torch.zeros(3), torch.zeros(3)))


def read(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_a_confusion_matrix_is_drawn_and_counts_each_image_and_a_resumed_run_draws_the_same(
    train, run_here, tmp_path, interrupted
):
    assert train(*MATRIX, "hydra.run.dir=a").code == 0
    tables = {stage: read(f"a/figures/{stage}_confusion_matrix.csv") for stage in ("val", "test")}
    results = Run("a").results
    for stage, table in tables.items():
        counts = torch.tensor([list(map(int, row[1:])) for row in table[1:]])
        assert table[0][1:] == [row[0] for row in table[1:]] == [str(digit) for digit in range(10)]
        assert counts.sum() == results["read"][stage] and counts.sum() > 0
        assert counts.trace() / counts.sum() == pytest.approx(results[stage]["acc"])
        assert (tmp_path / f"a/figures/{stage}_confusion_matrix.png").read_bytes().startswith(b"\x89PNG")
    assert "confusion_matrix" not in results["val"]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator("a").Reload()
    assert sorted(events.Tags()["images"]) == ["test/confusion_matrix", "val/confusion_matrix"]
    with interrupted(7):
        assert train(*MATRIX, "callbacks.checkpoints.every_minutes=1e-9", "hydra.run.dir=b").code != 0
    assert train("resume=b").code == 0
    assert read("b/figures/val_confusion_matrix.csv") == tables["val"]
    ran = run_here("scripts/evaluate.py", "a")
    figure = "a/figures/evaluated_test_confusion_matrix"
    assert f"test/confusion_matrix  {figure}.png, {figure}.csv" in ran.out
    assert read(f"{figure}.csv") == tables["test"]


@pytest.mark.slow
def test_two_processes_count_together(run_process, tmp_path):
    words = [*MATRIX, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "hydra.run.dir=run"]
    assert run_process(tmp_path, "train.py", *words).code == 0
    counts = [list(map(int, row[1:])) for row in read(tmp_path / "run/figures/test_confusion_matrix.csv")[1:]]
    assert sum(map(sum, counts)) == Run(tmp_path / "run").results["read"]["test"]


TORCHMETRICS = "_target_: torchmetrics.classification.Multiclass"
SCORES = f"[{{{TORCHMETRICS}Precision, average: macro}}, {{{TORCHMETRICS}Recall, average: macro}}]"
COLLECTION = f"+metrics.scores={{_target_: torchmetrics.MetricCollection, metrics: {SCORES}}}"


def test_a_collection_is_logged_under_the_names_of_its_metrics(train):
    assert train(*SMALL, COLLECTION, "hydra.run.dir=a").code == 0
    assert {"scores/MulticlassPrecision", "scores/MulticlassRecall"} <= Run("a").results["test"].keys()


ROC = "+metrics.roc={_target_: torchmetrics.classification.MulticlassROC, thresholds: 5}"
WRONG = {
    "metrics: val/roc is a tuple, and what is logged": [ROC],
    "monitor.metric=val/confusion_matrix is no single number; choose from: val/acc, val/loss": [
        "metrics=confusion_matrix", "monitor.metric=val/confusion_matrix", "monitor.mode=min"
    ],
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_what_cannot_be_shown_is_refused_before_training(text, train):
    ran = train(*SMALL, *WRONG[text], "hydra.run.dir=a")
    assert ran.code == 1 and ran.err.startswith(f"error: {text}") and "epoch" not in ran.out


def test_trying_the_metrics_changes_nothing(compose):
    """Weights, buffers and random numbers are those of a run without metrics."""
    states = []
    for words in [], ["metrics=[confusion_matrix,top5]"]:
        config = check.plain(compose(*SMALL, "model.dropout=0.5", *words))
        torch.manual_seed(0)
        task = assemble.task(config, assemble.data(config))
        states.append([*task.state_dict().values(), torch.get_rng_state()])
        assert task.training and all(metric.update_count == 0 for metric in task.metrics.values())
    assert all(torch.equal(one, other) for one, other in zip(*states, strict=True))
