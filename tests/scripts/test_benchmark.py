"""scripts/benchmark.py: what it computes from measurements, and that all can be measured. No time is judged."""

import json
import os
import re
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch

WORDS = ["data=mnist", "data._target_=contenders.generated.mnist", "data.limit=1000", "data.batch_size=128"]
WORDS += ["model=mlp", "model.widths=[16]", "optim=adam", "trainer=cpu", "trainer.precision=32-true"]


@pytest.fixture
def contender(repo, tmp_path, monkeypatch):
    """A contender's report, measured in this process."""
    monkeypatch.syspath_prepend(str(repo / "scripts"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # Lightning sets it for good
    matmul_precision = torch.get_float32_matmul_precision()

    def contender(module, *arguments):
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        __import__(f"contenders.{module}", fromlist=["main"]).main()
        return json.loads((tmp_path / "report.json").read_text())

    yield contender
    torch.set_float32_matmul_precision(matmul_precision)


@pytest.fixture
def scripts(repo, monkeypatch):
    """scripts/ can be imported from, as where benchmark.py runs."""
    monkeypatch.syspath_prepend(str(repo / "scripts"))


# what is computed


def test_contenders_take_turns_in_both_directions(scripts):
    from contenders import tables

    assert tables.alternating_order(["a", "b", "c"], 3) == [["a", "b", "c"], ["c", "b", "a"], ["a", "b", "c"]]


def test_a_ratio_is_taken_within_each_round(scripts):
    from contenders import tables

    slow, fast = ([{"s": value} for value in values] for values in ([10, 30, 20], [10, 60, 5]))
    ratios = tables.round_ratios(slow, fast, ["s"])
    assert ratios == {"s": {"rounds": [1, 0.5, 4], "median": 1, "min": 0.5, "max": 4}}  # the medians' ratio is 2


def test_the_first_epoch_warms_up_and_does_not_count(scripts):
    from contenders import task

    report = task.training_report([9.0, 1.0, 2.0, 3.0], 16.0, 100, 0.5, torch.device("cpu"))
    assert (report["epoch_s"], report["images_per_s"]) == (2.0, 50.0)
    assert task.training_report([9.0], 9.0, 100, 0.5, torch.device("cpu"))["epoch_s"] == 9.0


def test_a_table_shows_medians_and_what_they_lie_between(scripts):
    from contenders import tables

    cells = [tables.format_range(tables.median_and_range(values), ".1f") for values in ([1, 2, 4], [3, 3, 3])]
    assert cells == ["2.0 (1.0-4.0)", "3.0"]
    assert tables.text_table(["", "s"], [["one", "1"], ["eleven", "11"]]).splitlines() == [
        "            s",
        "  one       1",
        "  eleven   11",
    ]


# what is measured


@pytest.mark.slow
def test_mlp_measures_three_contenders_on_generated_images(run_process, tmp_path):
    options = ["--repeats", 1, "--epochs", 1, "--images", 2000, "--workers", 0, "--json", "results.json"]
    ran = run_process(tmp_path, "scripts/benchmark.py", "mlp", *options, ATHANOR_DATA=str(tmp_path / "empty"))
    assert (ran.code, ran.err) == (0, "")
    assert "GENERATED images in the shape of mnist, 2,000 of its training images" in ran.out
    results = json.loads((tmp_path / "results.json").read_text())
    assert {"cpu", "cores", "threads", "torch", "load_at_start", "load_at_end"} <= set(results["machine"])
    case = results["cases"]["mlp"]
    assert list(case["contenders"]) == ["athanor", "plain", "conventional"]
    for contender in case["contenders"].values():
        [record] = contender["rounds"]
        assert len(record["epoch_seconds"]) == 1
        assert record["images"] == 14 * 128  # of the 1,800 that are not for validation
        assert record["threads"] == 1
        assert record["val_acc"] > 0.5  # the generated classes can be learnt
        assert contender["summary"]["epoch_s"]["median"] == record["epoch_seconds"][0]
    assert set(case["ratios"]) == {"conventional / athanor", "athanor / plain"}
    for ratio in case["ratios"].values():
        assert set(ratio) == {"epoch_s", "fit_s", "command_s"}


@pytest.mark.slow
def test_startup_times_the_config_and_the_first_step(run_process, tmp_path):
    ran = run_process(tmp_path, "scripts/benchmark.py", "startup", "--repeats", 1, "--json", "results.json")
    assert (ran.code, ran.err) == (0, "")
    contenders = json.loads((tmp_path / "results.json").read_text())["cases"]["startup"]["contenders"]
    config, step = (contenders[name]["summary"]["command_s"]["median"] for name in ("--cfg job", "first step"))
    assert 0 < config < step


@pytest.mark.parametrize("path", ["athanor", "torchvision"])
def test_both_data_paths_give_batches(contender, monkeypatch, path):
    monkeypatch.setattr("contenders.data_paths.SECONDS", 0.01)
    crops = ["data.augment.crop=2", "data.augment.flip=true"]
    assert contender("data_paths", "--path", path, *WORDS, *crops)["images_per_s"] > 0


def test_the_loop_by_hand_runs_without_lightning(repo, tmp_path):
    """Its start-up time and its memory are those that Athanor's are compared with."""
    code = "import sys; from contenders import plain_loop; plain_loop.main(); print('lightning' in sys.modules)"
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(repo / "scripts"), os.environ.get("PYTHONPATH", "")])}
    words = [sys.executable, "-c", code, *WORDS, "trainer.max_epochs=1"]
    ran = subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


@pytest.mark.parametrize("path", ["athanor", "bare"])
def test_streamed_items_are_timed(path, contender):
    report = contender("streamed_paths", f"--path={path}", "--items=130", "--workers=0", "--draws=all")
    assert report["us_per_item"] > 0


# all cases, in turns


@pytest.fixture
def run_all(scripts, monkeypatch, tmp_path, capfd):
    """benchmark.py all, with cases of two contenders that are given as Python code; what it said and wrote."""
    import benchmark
    from contenders.rounds import Comparison

    monkeypatch.chdir(tmp_path)

    def run_all(codes, *arguments):
        def make(name, options):
            commands = {contender: ["-c", codes[name]] for contender in ("conventional", "athanor", "plain")}
            pairs = [("conventional", "athanor"), ("athanor", "plain")]
            yield Comparison(f"{name}: fake", ["data=mnist"], commands, options, ["epoch_s"], [], pairs)

        monkeypatch.setattr(benchmark, "CASES", {name: (partial(make, name), {}) for name in codes})
        monkeypatch.setattr(benchmark, "ALL", {"cpu": {name: {} for name in codes}})
        monkeypatch.setattr(sys, "argv", ["benchmark.py", "all", *arguments])
        with pytest.raises(SystemExit) as end:
            benchmark.main()
        [written] = tmp_path.rglob("*.json")
        return end.value.code, *capfd.readouterr(), json.loads(written.read_text())

    return run_all


REPORT = "import json; json.dump({'epoch_s': 2.0}, open('report.json', 'w'))"


def test_a_case_that_fails_is_named_and_the_others_are_measured(run_all, tmp_path):
    code, out, err, results = run_all({"ema": "1 / 0", "mlp": REPORT}, "--repeats", "2")
    assert code == 1
    assert err.startswith("ema has failed: ZeroDivisionError: division by zero\n")
    assert list(results["failures"]) == ["ema"]
    assert list(results["cases"]) == ["mlp"]
    assert [len(contender["rounds"]) for contender in results["cases"]["mlp"]["contenders"].values()] == [2, 2, 2]
    assert "| `mlp`: MNIST, 784-64-128-64-10, batch 128, seconds of an epoch, rounds 2 | 1.00 | 1.00 |\n" in out
    assert len(list((tmp_path / "outputs" / "benchmark").glob("*_cpu.json"))) == 1


def test_cases_take_turns_until_all_rounds_are_done(run_all):
    code, out, err, results = run_all({"mlp": REPORT, "ema": REPORT}, "--repeats", "2", "--json", "all.json")
    assert (code, err, results["failures"]) == (0, "", {})
    order = re.findall(r"(\w+): round (\d) of 2, athanor", out)
    assert order == [("mlp", "1"), ("ema", "1"), ("mlp", "2"), ("ema", "2")]


def test_all_ends_in_the_time_that_it_is_given(run_all):
    slow, endless = f"import time; time.sleep(0.4); {REPORT}", "import time; time.sleep(60)"
    started = time.monotonic()
    code, _, err, results = run_all({"ema": endless, "mlp": slow}, "--minutes", "0.1")
    assert time.monotonic() - started < 9  # of 6 s, of which the endless process may have a third
    assert 1 <= len(results["cases"]["mlp"]["contenders"]["athanor"]["rounds"]) < 5
    assert (code, err) == (1, "ema has failed: no time was left for it; use more --minutes\n")


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_all_trains_what_train_py_takes(device, scripts, compose, monkeypatch):
    import benchmark

    monkeypatch.setattr(
        sys, "argv", ["benchmark.py", "all", "--device", device, "--workers", "2", "--json", "all.json"]
    )
    options = benchmark.parse_options()
    options.deadline = 0.0
    failures = {}
    comparisons = benchmark.prepare(options, failures)
    cases = [comparison.case.partition("-")[0] for comparison in comparisons]
    assert (failures, list(dict.fromkeys(cases))) == ({}, list(benchmark.ALL[device]))
    commands = [words for comparison in comparisons for words in comparison.commands.values()]
    for words in {tuple(word for word in words[1:] if word[0] not in "-+" and "=" in word) for words in commands}:
        compose(*words)


def test_a_range_test_is_judged_by_the_loss_that_its_rates_cost(scripts):
    from contenders import cases

    answers = [dict.fromkeys(cases.NAMES, lr) for lr in (0.1, 0.2)]
    losses = [dict.fromkeys(cases.NAMES, loss) for loss in (0.5, 0.7)]
    report = {"grid": [0.1, 1.0], "grid_losses": [[0.4, 0.6], [3.0, 3.0]], "answers": answers, "losses": losses}
    options = SimpleNamespace(repeats=1)
    comparison = cases.RateComparison(
        "lr_range-x: words", ["data=digits"], {}, options, [], rounds=[{"lr_range": report}]
    )
    results = comparison.results()
    assert (results["best_lr"], results["best_loss"]) == (0.1, 0.5)
    assert results["rules"]["minimum"]["spread"] == 2
    assert results["rules"]["minimum"]["regret"]["mean"] == pytest.approx(0.1)
    assert "Lightning's finder   0.15 (0.1-0.2)" in comparison.text()


# mistakes


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["mlp", "--repeats", "0"], "--repeats 0: use 1 or more"),
        (["mlp", "--workers", "many"], "--workers many: use a number from 0, or best"),
        (["mlp", "--json", "nowhere/results.json"], "--json nowhere/results.json: there is no folder nowhere"),
    ],
)
def test_a_mistake_is_one_sentence(run_process, tmp_path, words, sentence):
    ran = run_process(tmp_path, "scripts/benchmark.py", *words)
    assert (ran.code, ran.out, ran.err) == (1, "", f"error: {sentence}\n")


def test_a_contender_that_fails_is_named_with_its_reason(scripts):
    from contenders import process

    from athanor.base.errors import UserError

    words = ["-c", "print('much'); print('error: no such thing'); print('more'); raise SystemExit(1)"]
    with pytest.raises(UserError, match=r"^no such thing\n.*python -c") as failed:
        process.measure_process(words, threads=1)
    assert len(str(failed.value).splitlines()) == 2
    with pytest.raises(UserError, match=r"^ZeroDivisionError: division by zero\n"):
        process.measure_process(["-c", "1 / 0"], threads=1)


def test_a_process_reports_its_time_memory_and_settings(scripts):
    from contenders import process

    report = "import json, os; json.dump({'threads': os.environ['OMP_NUM_THREADS']}, open('report.json', 'w'))"
    measured = process.measure_process(["-c", report], threads=3)
    assert measured["threads"] == "3"
    assert measured["command_s"] > 0
    assert measured["peak_mb"] > 1
