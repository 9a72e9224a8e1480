"""Mean, deviation and interval over seeds and folds, and what a sweep chooses to test."""

import csv
import json
import math
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from omegaconf import open_dict, read_write

from athanor.engine.app.directories import settle_test
from athanor.engine.runs import provenance, repeats
from athanor.engine.runs.run import Run
from athanor.engine.runs.sweep import Sweep


@pytest.fixture
def sweep(tmp_path):
    """A sweep's directory with finished jobs of these words and accuracies; None is a job that failed."""

    def sweep(*jobs, test=True):
        for number, (words, acc) in enumerate(jobs):
            folder = tmp_path / "sweep" / str(number)
            folder.mkdir(parents=True)
            words = words.split()
            seed = next((int(word.partition("=")[2]) for word in words if word.startswith("seed=")), 0)
            results = {"status": "failed", "overrides": words, "seed": seed}
            results["measures"] = {"acc": {"mode": "max", "unit": "%"}, "loss": {"mode": "min"}}
            if acc is not None:
                results |= {"status": "finished", "val": {"loss": 1 - acc, "acc": acc}}
                results |= {"test": {"acc": acc - 0.01}} if test else {}
            results["data"] = {"train_hash": next((word for word in words if word.startswith("data=")), "")}
            (folder / "config.yaml").write_text("monitor: {metric: val/loss, mode: min}\n")
            (folder / "results.json").write_text(json.dumps(results))
        return Sweep(tmp_path / "sweep")

    return sweep


# of tables: 97.5 % quantiles of Student's distribution, by degrees of freedom
QUANTILES = {1: 12.7062047, 2: 4.3026527, 3: 3.1824463, 4: 2.7764451, 9: 2.2621572, 30: 2.0422725, 31: 2.0395134}
QUANTILES |= {60: 2.0002978, 120: 1.9799304, 1000: 1.9623390, 10_000: 1.9602012}


@pytest.mark.parametrize("degrees", QUANTILES)
def test_the_quantiles_are_those_of_students_distribution(degrees):
    assert repeats.student_quantile(degrees) == pytest.approx(QUANTILES[degrees], abs=1e-6)


def test_the_interval_of_two_five_and_many_values():
    assert repeats.half_interval(1.0, 2) == pytest.approx(12.7062 / math.sqrt(2))
    assert repeats.half_interval(2.0, 5) == pytest.approx(2.776445 * 2 / math.sqrt(5))
    assert repeats.half_interval(1.0, 33) == pytest.approx(2.036933 / math.sqrt(33))


def test_jobs_that_differ_in_the_seed_alone_are_one_row_with_their_interval(sweep):
    accs = [0.90, 0.92, 0.97]
    jobs = [(f"model=mlp seed={seed}", acc) for seed, acc in enumerate(accs)]
    found = sweep(*jobs, ("model=cnn seed=0", 0.5), ("model=cnn seed=1", 0.7), ("model=linear seed=0", 0.3))
    text = found.collect()
    mean, deviation = statistics.fmean(accs), statistics.stdev(accs)
    half = 4.3026527 * deviation / math.sqrt(3)
    assert mean + half > 1  # which no accuracy is
    assert f"  3 seeds  val/acc {mean:.2%} +- {deviation:.2%} ({mean - half:.2%} to 100.00%)" in text
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
    assert [float(rows[i]["val/acc"]) for i in (8, 9)] == pytest.approx([mean - half, 1])
    assert [float(rows[i]["val/loss"]) for i in (8, 9)] == pytest.approx([1 - mean - half, 1 - mean + half])


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


def test_folds_and_splits_are_repeats_too(sweep):
    accs = [0.90, 0.92, 0.97]
    folds = [(f"data.folds=3 data.fold={fold}", acc) for fold, acc in enumerate(accs)]
    found = sweep(*folds, ("data.split_seed=0", 0.5), ("data.split_seed=1", 0.7))
    text = found.collect()
    mean, deviation = statistics.fmean(accs), statistics.stdev(accs)
    half = 4.3026527 * deviation / math.sqrt(3)
    assert f"  3 folds  val/acc {mean:.2%} +- {deviation:.2%} ({mean - half:.2%} to 100.00%)" in text
    assert "  2 splits  val/acc 60.00%" in text
    with open(found.dir / "results.csv") as file:
        row = list(csv.DictReader(file))[5]
    assert (row["job"], row["overrides"], row["status"]) == ("mean", "data.folds=3", "of 3 folds")


def test_the_interval_over_folds_counts_the_mean_of_the_seeds_of_each_fold(sweep):
    """Seeds of one fold share its validation images, and are no independent values."""
    accs = {0: [0.90, 0.92, 0.91], 1: [0.80, 0.84, 0.85]}
    jobs = [(f"seed={seed} data.fold={fold}", acc) for fold in accs for seed, acc in enumerate(accs[fold])]
    means = [statistics.fmean(values) for values in accs.values()]
    mean, deviation = statistics.fmean(means), statistics.stdev(means)
    expected = f"  2 folds of 3 seeds  val/acc {mean:.2%} +- {deviation:.2%} "
    assert expected in sweep(*jobs).collect()


def test_the_best_setting_is_tested_not_the_luckiest_run(sweep):
    """By the mean over its folds, and of these the best job; a setting that has a nan is not chosen."""
    accs = {"optim.lr=1": [0.5, 0.99], "optim.lr=2": [0.9, 0.92], "optim.lr=3": [math.nan, 0.99]}
    jobs = [(f"{word} data.fold={fold}", acc) for word, values in accs.items() for fold, acc in enumerate(values)]
    found = sweep(*jobs, test=False)
    lines = found.collect().splitlines()
    at = lines.index("  the test set is unread; to test the job that is best by val/loss:")
    assert lines[at + 1 :] == [f"  python scripts/evaluate.py {found.dir / '3'}"]


def test_the_table_has_the_best_job_first_and_marks_it_and_the_failed_last(sweep):
    jobs = [("optim.lr=1", 0.5), ("optim.lr=2", None), ("optim.lr=3", math.nan), ("optim.lr=4", 0.9)]
    lines = sweep(*jobs).collect().splitlines()[1:5]
    assert [line.split()[0] for line in lines] == ["3", "0", "2", "1"]
    assert lines[0].endswith("   optim.lr=4   <- best by val/loss") and "val/acc  90.00%   " in lines[0]
    assert "   val/loss 0.1000   " in lines[0]  # by which they are sorted
    assert [line.count("best") for line in lines] == [1, 0, 0, 0]


def test_over_seeds_the_setting_with_the_best_mean_is_marked_and_no_seed_is(sweep):
    jobs = [("model=a seed=0", 0.99), ("model=a seed=1", 0.5), ("model=b seed=0", 0.8), ("model=b seed=1", 0.82)]
    lines = sweep(*jobs).collect().splitlines()
    means = [line for line in lines if " seeds " in line]
    assert means[0].endswith("model=b   <- best by val/loss") and means[1].endswith("model=a")
    assert len(means) == 2 and sum("best" in line for line in lines) == 1


def test_of_seeds_alone_none_is_the_best(sweep):
    assert "best" not in sweep(("seed=5", 0.9), ("seed=6", 0.8)).collect()


def test_jobs_of_several_data_sets_are_not_compared_with_one_another(sweep):
    text = sweep(("data=a", 0.9), ("data=b optim.lr=1", 0.5), ("data=b optim.lr=2", 0.6)).collect()
    assert [line.split()[0] for line in text.splitlines() if "best" in line] == ["2"]


def test_each_data_set_has_a_job_of_its_own_to_test(sweep):
    found = sweep(("data=a optim.lr=1", 0.9), ("data=a optim.lr=2", 0.8), ("data=b optim.lr=1", 0.5), test=False)
    assert found.collect().count("scripts/evaluate.py") == 2


def test_a_multirun_over_seeds_ends_with_the_table(train):
    ran = train("-m", "seed=0,1", "model=linear", "data.limit=200", "trainer.max_epochs=1", "hydra.sweep.dir=sweep")
    assert (ran.code, ran.err) == (0, "")
    accs = [run.results["test"]["acc"] for run in Sweep("sweep").runs]
    assert f"test/acc {statistics.fmean(accs):.2%} +- {statistics.stdev(accs):.2%}" in ran.out


TINY = ["model=linear", "data.limit=200", "trainer.max_epochs=1", "compute.threads=1"]


def test_cross_validation_has_a_result_and_leaves_the_test_set_unread_until_one_command(train, run_here):
    ran = train("-m", "data.folds=3", "data.fold=range(3)", *TINY, "hydra.sweep.dir=cv")
    assert (ran.code, ran.err) == (0, "")
    runs = Sweep("cv").runs
    accs = [run.results["val"]["acc"] for run in runs]
    assert f"  3 folds  val/acc {statistics.fmean(accs):.2%} +- {statistics.stdev(accs):.2%} (" in ran.out
    assert not any("test" in run.results or run.config["eval"]["test"] is not False for run in runs)
    chosen = min(runs, key=lambda run: run.results["val"]["loss"]).dir
    assert ran.out.endswith(f"best by val/loss:\n  python scripts/evaluate.py {chosen}\n\n")
    assert not provenance.TEST_READS.exists()
    tested = run_here("scripts/evaluate.py", chosen)
    results = Run(chosen).results
    assert f"test/acc  {results['test']['acc']!r}\n" in tested.out
    assert "test set of this data read once below outputs/" in tested.out
    assert (results["test_reads"], len(results["data"]["test_hash"])) == (1, 16)
    again = run_here("scripts/evaluate.py", chosen, "data.limit=100")
    assert "read 2 times" in again.out and Run(chosen).results == results
    single = train(*TINY, "hydra.run.dir=single")
    assert "test set of this data read 3 times below outputs/" in single.out
    assert Run("single").results["test_reads"] == 3
    assert Run("single").config["eval"]["test"] is True


@pytest.mark.parametrize(
    ("words", "reads"),
    [
        (["seed=0,1"], True),
        (["model=linear"], True),  # nothing varies
        (["optim.lr=0.1,0.2", "seed=0,1"], False),
        (["seed=range(2)", "data.split_seed=choice(0,1)"], False),
        (["optim.lr=0.1,0.2", "eval.test=true"], True),
        (["seed=0,1", "eval.test=false"], False),
        (["study=learning_rates", "optim.lr=0.1"], False),  # eval.test=false of the study
        (["study=ensembles"], True),
    ],
)
def test_a_multirun_that_compares_leaves_the_test_set_unread(words, reads, compose_sweep):
    config = compose_sweep(*(word for word in words if word.startswith(("study=", "eval."))))
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.overrides.task = words
    settle_test(config)
    assert config.eval.test is reads


@pytest.mark.parametrize(("typed", "reads"), [([], False), (["optim.lr=0.1"], True)])
def test_what_varies_may_be_said_by_the_sweeper_and_be_replaced_by_what_is_typed(typed, reads, compose_sweep):
    config = compose_sweep()
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.sweeper.params = {"optim.lr": "0.1,0.2", "seed": "0,1"}
        config.hydra.overrides.task = typed
    settle_test(config)
    assert config.eval.test is reads
    assert config.hydra.overrides.task[-1] == f"eval.test={str(reads).lower()}"


def test_a_run_that_is_repeated_with_several_settings_does_not_read_the_test_set_for_each(train):
    assert train(*TINY, "hydra.run.dir=a").code == 0
    ran = train("-m", "run=a", "optim.lr=0.1,0.01", "hydra.sweep.dir=s")
    assert ran.code == 0 and "python scripts/evaluate.py s/" in ran.out
    assert not any("test" in run.results for run in Sweep("s").runs)


def test_parallel_readings_of_a_test_set_are_all_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda number: provenance.count_test_read("abc", Path(str(number))), range(200)))
    assert max(counts) == 200
    assert provenance.count_test_read("other", Path("x")) == 1


def test_a_reading_that_cannot_be_counted_costs_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    Path("outputs").write_text("a file")
    assert provenance.count_test_read("abc", Path("x")) is None
    assert "not counted" in caplog.text
