"""scripts/schedule.py: what it says and draws is what training does."""

import re

import pytest

from athanor.craft import figure
from athanor.engine.app import command_line

WORDS = ["model=linear", "data.limit=115", "data.val_fraction=0", "data.batch_size=16", "trainer.max_epochs=4"]


@pytest.fixture
def schedule(run_here, monkeypatch):
    """Run the script; how it ended, and the curves of the figure that it saved."""

    def schedule(*words):
        drawn = []
        save = figure.save_figure
        monkeypatch.setattr(figure, "save_figure", lambda made, path: drawn.append(made) or save(made, path))
        ran = run_here("scripts/schedule.py", *WORDS, *words)
        monkeypatch.setattr(figure, "save_figure", save)
        return ran, [axis.lines[0].get_xydata().T.tolist() for made in drawn for axis in made.axes]

    return schedule


def test_it_draws_what_training_will_do_and_says_where_the_peak_is(schedule, tmp_path):
    words = ["optim=momentum", "optim.lr=0.4", "scheduler=polynomial", "scheduler.warmup=1", "scheduler.momentum=rise"]
    ran, curves = schedule(*words, "scheduler.warmup_unit=epochs", "trainer.accumulate_grad_batches=2")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines() == [  # 7 batches an epoch
        "steps          16, 4 an epoch",
        "learning rate  first 0.08, peak 0.4 at step 4 (epoch 1), last 0",
        "momentum       first 0.5, last 0.99, between 0.5 and 0.99",
        "the last step has rate 0 and changes no weight; with scheduler.floor above 0 it would",
        "outputs/schedules/linear_digits_polynomial.png",
    ]
    [(epochs, lrs), (_, momenta)] = curves
    assert epochs == [step / 4 for step in range(16)]
    assert lrs == pytest.approx([0.08, 0.16, 0.24, 0.32, *(0.4 * (1 - step / 11) for step in range(12))])
    assert momenta == pytest.approx([0.5 + 0.49 * step / 15 for step in range(16)])
    assert (tmp_path / "outputs/schedules/linear_digits_polynomial.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (tmp_path / "outputs").iterdir()} == {"schedules"}


def test_a_plateau_is_drawn_until_it_falls_and_the_file_may_be_chosen(schedule, tmp_path):
    words = ["optim.lr=0.128", "optim.lr_scaling=linear", "data.val_fraction=0.1", "scheduler=plateau"]
    ran, [(_, lrs)] = schedule(*words, "scheduler.warmup=1", "--output", "a/b.png")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("learning rate 0.128 -> 0.016: optim.lr_scaling=linear from a batch of 128 to 16\n")
    assert "drawn as if it never fell: it falls when val/loss stalls" in ran.out
    assert lrs == pytest.approx([0.016 * (step + 1) / 7 for step in range(6)] + [0.016] * 18)
    assert (tmp_path / "a" / "b.png").is_file()


def test_a_long_run_is_drawn_with_2000_points_at_most_and_its_last_one(schedule):
    ran, [(epochs, lrs)] = schedule("data.batch_size=1", "trainer.max_epochs=40", "scheduler=cosine")
    [steps, per_epoch] = map(int, re.search(r"steps +(\d+), (\d+) an epoch", ran.out).groups())
    assert steps == 40 * per_epoch > 2 * len(lrs) > 2000
    assert (epochs[-1], lrs[-1]) == ((steps - 1) / per_epoch, 0)


def test_a_floor_above_0_needs_no_such_line(schedule):
    ran, [(_, lrs)] = schedule("scheduler=cosine", "scheduler.floor=0.1")
    assert ran.code == 0 and lrs[-1] > 0
    assert "rate 0" not in ran.out


@pytest.mark.parametrize(
    "word, message",
    [
        ("scheduler=cosin", "error: scheduler=cosin does not exist; did you mean cosine?"),
        ("scheduler.warmup=-1", "error: scheduler.warmup=-1 is negative; use 0 or more"),
        (
            "trainer.max_epochs=-1",
            "error: this run has no end that is known; set trainer.max_epochs or",
        ),
        ("optim.lr=0.1,0.2", "error: Ambiguous value for argument 'optim.lr=0.1,0.2'"),
    ],
)
def test_what_is_wrong_is_said_as_by_train(schedule, tmp_path, word, message):
    ran, _ = schedule(word)
    assert ran.code == 1
    assert ran.err.startswith(message)
    assert "Traceback" not in ran.err
    assert not (tmp_path / "outputs").exists()


def test_words_become_the_config_that_train_would_have(train, compose):
    """With an experiment's values, what it drops for another option, a run to repeat, and no trace of Hydra's."""
    from hydra.core.hydra_config import HydraConfig

    config = command_line.composed(
        ["experiment=mnist_fast", "optim=sgd", "data.preprocess=none", "optim.lr_scaling=sqrt"]
    )
    assert (config["name"], config["optim"]["_target_"]) == ("mnist_fast", "torch.optim.SGD")
    assert config["data"]["preprocess"]["_target_"] != "athanor.data.preprocess.Standardize"
    assert (config["logger"], HydraConfig.instance().cfg) == ({}, None)
    assert (
        train(
            *WORDS, "callbacks.early_stopping=null", "trainer.max_epochs=1", "optim.lr=0.123", "hydra.run.dir=run"
        ).code
        == 0
    )
    again = command_line.composed(["run=run", "scheduler=cosine"])
    assert (again["optim"]["lr"], again["name"]) == (0.123, "linear_digits")
    assert again["scheduler"]["_target_"].rpartition(".")[2] == "cosine"
