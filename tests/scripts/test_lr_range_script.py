"""scripts/lr_range.py finds, prints and draws, and trains nothing."""

from pathlib import Path

import pytest

from athanor.engine.runs.run import Run

TINY = ["model=linear", "optim=sgd", "data.limit=320", "data.batch_size=32"]
FEW = ["callbacks.lr_range.steps=20", "callbacks.lr_range.sweeps=2"]


def test_it_finds_what_the_callback_finds_and_trains_nothing(run_here, train, tmp_path):
    ran = run_here("scripts/lr_range.py", *TINY, *FEW)
    assert (ran.code, ran.err) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]
    [folder] = tmp_path.glob("outputs/lr_range/*_linear_digits")
    assert sorted(path.name for path in folder.iterdir()) == ["lr_range.csv", "lr_range.png"]
    assert f"{folder.relative_to(tmp_path)}/lr_range.png" in ran.out
    assert train(*TINY, *FEW, "callbacks=lr_range", "hydra.run.dir=run", "trainer.max_epochs=1").code == 0
    assert f"to start with it: {Run('run').results['lr_range']['overrides'][0]}\n" in ran.out
    assert (folder / "lr_range.csv").read_text() == (tmp_path / "run" / "figures" / "lr_range.csv").read_text()


def test_it_trains_nothing_where_a_run_has_a_least_length(run_here):
    from athanor.tasks.task import Task

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Task, "on_train_batch_start", None)  # of a run's own step; it is not called
        ran = run_here("scripts/lr_range.py", *TINY, *FEW, "+trainer.min_epochs=2", "+trainer.min_steps=3")
    assert (ran.code, ran.err) == (0, "")


def test_given_weights_are_measured(run_here, train):
    assert train(*TINY, "trainer.max_epochs=9", "hydra.run.dir=run", "eval.test=false").code == 0
    words = [*TINY, *FEW, "weights=run", "callbacks.lr_range.sweeps=1"]
    assert run_here("scripts/lr_range.py", *words).code == 0
    [rows] = [path.read_text().splitlines() for path in Path("outputs/lr_range").glob("*/lr_range.csv")]
    assert float(rows[1].split(",")[2]) < 1  # of fresh weights 2.3 and more


def test_sweeps_that_disagree_end_in_an_error_with_what_to_type(run_here, tmp_path):
    ran = run_here("scripts/lr_range.py", "model=linear", "optim=sgd", "data.batch_size=2,32")
    assert (ran.code, ran.err.count("\n")) == (1, 2)
    assert "error: data.batch_size=2: the sweeps answer 2.0e-07 to " in ran.err
    assert ran.out.count("to start with it") == 1
    assert len(list(tmp_path.glob("outputs/lr_range/*/lr_range.png"))) == 1


@pytest.mark.parametrize("axis, values", [("data.batch_size", "32,64,128"), ("optim.weight_decay", "0,0.0001")])
def test_a_setting_with_several_values_is_compared(axis, values, run_here, tmp_path):
    ran = run_here("scripts/lr_range.py", *TINY[:3], *FEW, f"{axis}={values}")
    assert (ran.code, ran.err) == (0, "")
    [folder] = tmp_path.glob("outputs/lr_range/*_linear_digits")
    names = {f"{axis}={value}.csv" for value in values.split(",")} | {"lr_range.png"}
    assert {path.name for path in folder.iterdir()} == names
    table = ran.out[ran.out.index(f"  {axis} ") :].splitlines()
    assert [line.split()[0] for line in table[1:-1]] == values.split(",")


@pytest.mark.parametrize(
    "words, text",
    [
        (["data.batch_size=16,32", "seed=1,2"], "data.batch_size=16,32 seed=1,2: one setting at a time may have"),
        (["optim=nothing"], "optim=nothing does not exist"),
        (["optim.lrr=1"], "there is no optim.lrr; did you mean optim.lr=1?"),
        (["optim=lbfgs"], "callbacks=lr_range: optim=lbfgs finds the length of each step itself"),
        (["callbacks.lr_range.max_lr=1e-9"], "callbacks.lr_range.min_lr=1e-06 and max_lr=1e-09 are no range"),
        (["optim.lr=0"], "optim.lr=0: a range test keeps the ratios of groups; use a rate above 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words_end_in_a_line_or_two_and_leave_nothing(words, text, run_here, tmp_path):
    ran = run_here("scripts/lr_range.py", *TINY[:3], *words)
    assert ran.code == 1
    assert ran.err.startswith(f"error: {text}")
    assert ran.err.count("\n") <= 2
    assert list(tmp_path.iterdir()) == []
