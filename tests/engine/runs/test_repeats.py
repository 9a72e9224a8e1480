"""Mean, deviation and interval over seeds, in a sweep's table and results.csv."""

import csv
import json
import math
import statistics

import numpy as np
import pytest

from athanor.engine.runs import repeats
from athanor.engine.runs.run import Run
from athanor.engine.runs.sweep import Sweep


@pytest.fixture
def sweep(tmp_path):
    """A sweep's directory with finished jobs of these words and accuracies; None is a job that failed."""

    def sweep(*jobs):
        for number, (words, acc) in enumerate(jobs):
            folder = tmp_path / "sweep" / str(number)
            folder.mkdir(parents=True)
            words = words.split()
            seed = next((int(word.partition("=")[2]) for word in words if word.startswith("seed=")), 0)
            results = {"status": "failed", "overrides": words, "seed": seed}
            results["measures"] = {"acc": {"mode": "max", "unit": "%"}, "loss": {"mode": "min"}}
            if acc is not None:
                results |= {"status": "finished", "val": {"loss": 1 - acc, "acc": acc}, "test": {"acc": acc - 0.01}}
            (folder / "results.json").write_text(json.dumps(results))
        return Sweep(tmp_path / "sweep")

    return sweep


def test_the_quantiles_are_those_of_students_distribution():
    def probability(t, degrees):
        x = np.linspace(-t, t, 200_001)
        log_constant = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - math.log(degrees * math.pi) / 2
        return np.trapezoid(np.exp(log_constant) * (1 + x**2 / degrees) ** (-(degrees + 1) / 2), x)

    assert len(repeats.T_975) == 30
    for degrees, quantile in enumerate(repeats.T_975, start=1):
        assert probability(quantile, degrees) == pytest.approx(0.95, abs=1e-4)


def test_the_interval_of_two_three_and_many_values():
    assert repeats.half_interval(1.0, 2) == pytest.approx(12.706 / math.sqrt(2))
    assert repeats.half_interval(2.0, 5) == pytest.approx(2.776 * 2 / math.sqrt(5))
    assert repeats.half_interval(1.0, 1000) == pytest.approx(1.96 / math.sqrt(1000), rel=1e-4)


def test_jobs_that_differ_in_the_seed_alone_are_one_row_with_their_interval(sweep):
    accs = [0.90, 0.92, 0.97]
    jobs = [(f"model=mlp seed={seed}", acc) for seed, acc in enumerate(accs)]
    found = sweep(*jobs, ("model=cnn seed=0", 0.5), ("model=cnn seed=1", 0.7), ("model=linear seed=0", 0.3))
    text = found.collect()
    mean, deviation = statistics.fmean(accs), statistics.stdev(accs)
    half = 4.303 * deviation / math.sqrt(3)
    assert f"  3 seeds  val/acc {mean:.2%} +- {deviation:.2%} ({mean - half:.2%} to {mean + half:.2%})" in text
    assert text.count(" seeds  val/acc") == 2
    assert "model=linear" not in text[text.index("mean +-") :]
    with open(found.dir / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["job"] for row in rows] == [*"012345", *["mean", "std", "low", "high"] * 2]
    row = rows[6]
    assert (row["overrides"], row["status"]) == ("model=mlp", "of 3 seeds")
    assert float(row["val/acc"]) == pytest.approx(mean)
    assert float(row["test/acc"]) == pytest.approx(mean - 0.01)
    assert float(rows[7]["val/acc"]) == pytest.approx(deviation)
    assert [float(rows[i]["val/acc"]) for i in (8, 9)] == pytest.approx([mean - half, mean + half])


def test_a_job_that_failed_is_no_repeat(sweep):
    found = sweep(("seed=0", 0.9), ("seed=1", None), ("seed=2", 0.8))
    assert "  2 seeds  val/acc 85.00%" in found.collect()


@pytest.mark.parametrize(
    "jobs",
    [
        [("optim.lr=1 seed=0", 0.9), ("optim.lr=2 seed=0", 0.8)],
        [("seed=0", 0.9), ("seed=1", None)],
        [("seed=0", 0.9), ("seed=0", 0.9)],
    ],
)
def test_where_no_seed_is_repeated_nothing_is_said(jobs, sweep):
    found = sweep(*jobs)
    assert "seeds" not in found.collect()
    assert "mean" not in (found.dir / "results.csv").read_text()


def test_a_multirun_over_seeds_ends_with_the_table(train):
    ran = train("-m", "seed=0,1", "model=linear", "data.limit=200", "trainer.max_epochs=1", "hydra.sweep.dir=sweep")
    assert (ran.code, ran.err) == (0, "")
    accs = [Run(f"sweep/{job}").results["test"]["acc"] for job in (0, 1)]
    assert f"test/acc {statistics.fmean(accs):.2%} +- {statistics.stdev(accs):.2%}" in ran.out
