"""study=ensembles, on a few digits: its table against what the runs themselves say."""

import csv
import math
import statistics
from pathlib import Path

import pytest
import torch

from athanor.engine.config import assemble
from athanor.engine.runs.ensembles import comparison
from athanor.engine.runs.run import Run, load_classifier
from athanor.engine.runs.sweep import Sweep

WORDS = [
    "study=ensembles",
    "data=digits",
    "data.limit=400",
    "data.batch_size=32",
    "trainer.max_epochs=3",
    "init=default",
    "compute.threads=1",
]


@pytest.fixture(scope="module")
def study(tmp_path_factory, run_process):
    cwd = tmp_path_factory.mktemp("study")
    ran = run_process(cwd, "train.py", *WORDS, "optim.lr=0.01", "seed=0,1", "hydra.sweep.dir=sweep")
    assert (ran.code, ran.err) == (0, "")
    with open(cwd / "sweep" / "ensembles.csv") as file:
        return ran, cwd / "sweep", {row["method"]: row for row in csv.DictReader(file)}


def runs_of(folder, kind):
    return [run for run in Sweep(folder).runs if f"callbacks={kind}" in run.results["overrides"]]


def test_every_method_is_a_row_with_its_cost(study):
    ran, folder, rows = study
    assert list(rows) == ["single", "checkpoints of one run", "greedy soup of one run", "ema", "swa", "2 seeds"]
    assert [int(row["forward passes"]) for row in rows.values()] == [1, 3, 1, 1, 1, 2]
    assert float(rows["2 seeds"]["trainings"]) == 2
    assert (folder / "figures" / "ensembles.png").read_bytes().startswith(b"\x89PNG")
    assert "sweep/figures/ensembles.png" in ran.out
    for method in rows:
        assert f"  {method:24}" in ran.out


def test_the_rows_say_what_the_runs_say(study):
    _, folder, rows = study
    single = [run.results["test"]["acc"] for run in runs_of(folder, "ensemble")]
    assert float(rows["single"]["acc"]) == pytest.approx(statistics.fmean(single))
    assert float(rows["single"]["acc std"]) == pytest.approx(statistics.stdev(single))
    kept = [run.results["ensemble"]["test"]["ensemble"]["acc"] for run in runs_of(folder, "ensemble")]
    assert float(rows["checkpoints of one run"]["acc"]) == pytest.approx(statistics.fmean(kept))
    for kind in "ema", "swa":
        accs = [run.results["test"]["acc"] for run in runs_of(folder, kind)]
        assert float(rows[kind]["gain"]) == pytest.approx(statistics.fmean(accs) - statistics.fmean(single), abs=1e-6)


def test_the_seeds_are_averaged_and_their_gain_has_an_interval(study):
    _, folder, rows = study
    runs = runs_of(folder, "ensemble")
    data = assemble.data(runs[0].trusted_config)
    images, labels = data.source.test_inputs[data.test_index], data.source.test_targets[data.test_index]
    with torch.inference_mode():
        mean = torch.stack([load_classifier(run.checkpoint)(images).softmax(1) for run in runs]).mean(0)
    acc = (mean.argmax(1) == labels).float().mean().item()
    assert float(rows["2 seeds"]["acc"]) == pytest.approx(acc)
    single = [run.results["test"]["acc"] for run in runs]
    low, gain, high = (float(rows["2 seeds"][name]) for name in ("gain low", "gain", "gain high"))
    assert gain == pytest.approx(acc - statistics.fmean(single))
    assert low < gain < high
    assert math.isnan(float(rows["single"]["gain low"]))
    best = min(runs, key=lambda run: run.results["val"]["loss"])
    assert float(rows["2 seeds"]["best member"]) == pytest.approx(best.results["test"]["acc"])


def paired(seeds, images, spread, generator):
    """Gains [S, N] with a part that all seeds share for an image, one that is the seed's, and one of both."""
    shared = torch.randn(1, images, generator=generator, dtype=torch.double)
    of_seed = spread * torch.randn(seeds, 1, generator=generator, dtype=torch.double)
    return shared + of_seed + 0.3 * torch.randn(seeds, images, generator=generator, dtype=torch.double)


@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.0), (10, 0.0), (10, 0.3)], ids=["one seed", "images", "seeds"])
def test_the_interval_of_a_gain_has_the_width_that_repeated_draws_have(seeds, spread, monkeypatch):
    """Where images make the gain uncertain, and where seeds do."""
    monkeypatch.setattr(comparison, "DRAWS", 300)
    generator = torch.Generator().manual_seed(1)
    trials = [paired(seeds, 400, spread, generator) for _ in range(60)]
    widths = [high - low for low, high in map(comparison.gain_interval, trials)]
    error = (1 / 400 + spread**2 / seeds + 0.09 / (400 * seeds)) ** 0.5
    assert statistics.fmean(widths) == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_an_accuracy_of_few_images_is_not_certain_because_the_seeds_agree():
    """100 images, one more of them right for every seed: the gain has the sampling error of the images."""
    gains = torch.zeros(5, 100, dtype=torch.double)
    gains[:, 0] = 1
    low, high = comparison.gain_interval(gains)
    assert low == 0 and 0.02 <= high <= 0.04


def test_a_study_that_leaves_the_test_set_unread_compares_on_validation(train):
    words = ["study=ensembles", "data=digits", "data.limit=200", "trainer.max_epochs=2", "callbacks=ensemble"]
    ran = train(*words, "seed=0,1", "eval.test=false", "hydra.sweep.dir=sweep")
    assert (ran.code, ran.err) == (0, "")
    with open("sweep/ensembles.csv") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    single = [run.results["val"]["acc"] for run in Sweep("sweep").runs]
    assert (rows["single"]["stage"], float(rows["single"]["acc"])) == ("val", pytest.approx(statistics.fmean(single)))
    assert "test_reads.txt" not in {path.name for path in Path("outputs").glob("*")}


def test_a_student_learns_from_the_ensemble(study, run_here, tmp_path):
    _, folder, _ = study
    runs = [run.dir for run in runs_of(folder, "ensemble")]
    ran = run_here("scripts/ensemble.py", *runs, "--distill", "--output", tmp_path / "student")
    assert (ran.code, ran.err) == (0, "")
    student = Run(Path("student"))
    assert student.results["made"] == "student"
    assert list(student.results["teacher"]) == [str(run) for run in runs]
    assert student.results["test"]["acc"] > 0.5
    ran = run_here("scripts/evaluate.py", "student")
    assert ran.code == 0
    recorded = student.results["test"]["acc"]
    assert f"test/acc  {recorded!r}  (recorded {recorded!r})" in ran.out
