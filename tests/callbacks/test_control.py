"""A person edits control.yaml while a run trains."""

import csv
import json
import logging
import math
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as L
import pytest
import torch

from athanor.callbacks import control
from athanor.callbacks.control import Control
from athanor.engine.config import assemble, check
from athanor.engine.runs.run import Run, read_checkpoint

# 4 steps an epoch
TINY = ["model=mlp", "model.widths=[16]", "data.limit=142", "data.batch_size=32", "trainer.log_every_n_steps=1"]
RUN = [*TINY, "trainer.max_epochs=3", "trainer=cpu", "logger=csv", "callbacks.early_stopping=null"]
EACH_STEP = "callbacks.checkpoints.every_minutes=1e-9"


class Person(L.Callback):
    """Saves these texts as control.yaml just before the control looks at these steps; notes what each step is made
    with, and on what steps a validation came; may kill the run.
    """

    def __init__(self, edits: dict[int, str], kill_at: int | None = None) -> None:
        self.edits, self.kill_at = edits, kill_at
        self.groups: dict[int, list[dict]] = {}
        self.validated: list[int] = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        text = self.edits.get(trainer.global_step)
        if text is not None and batch_idx % trainer.accumulate_grad_batches == 0:
            path = Path(trainer.default_root_dir) / "control.yaml"
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
            saved = (trainer.global_step + 1) * 10**9  # two saves within a tick of the clock would have one time
            os.utime(path, ns=(saved, saved))

    def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
        if trainer.global_step == self.kill_at:
            raise SystemExit
        self.groups[trainer.global_step] = [
            {k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups
        ]

    def on_validation_end(self, trainer, module) -> None:
        self.validated.append(trainer.global_step)

    def values(self, key: str, group: int = 0) -> list[float]:
        return [groups[group][key] for groups in self.groups.values()]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(control, "INTERVAL", 0)


@pytest.fixture
def fit(compose, tmp_path):
    """Train as train.py does, from the last checkpoint where there is one, with a person who makes these edits."""

    def fit(edits, *words, folder="run", kill_at=None):
        config = check.plain(compose(*RUN, *words))
        torch.manual_seed(config["seed"])
        data = assemble.data(config)
        classifier = assemble.task(config, data)
        last = tmp_path / folder / "checkpoints" / "last.ckpt"
        step = read_checkpoint(last)["global_step"] if last.exists() else None
        (tmp_path / folder).mkdir(exist_ok=True)
        trainer = assemble.trainer(config, str(tmp_path / folder), data, classifier, step)
        person = Person(edits, kill_at)
        trainer.callbacks.insert(0, person)
        trainer.fit(classifier, data, ckpt_path=last if step is not None else None, weights_only=True)
        person.trainer = trainer
        return person

    return fit


@pytest.fixture
def assert_resumes(fit, tmp_path):
    """A run with these edits that is killed at a step and gone on with ends as one that is not, to the last bit."""

    def assert_resumes(edits, *words, kill_at):
        whole = fit(edits, *words, EACH_STEP, folder="whole")
        with pytest.raises(SystemExit):
            fit(edits, *words, EACH_STEP, folder="parts", kill_at=kill_at)
        parts = fit({}, *words, EACH_STEP, folder="parts")
        a, b = (read_checkpoint(tmp_path / folder / "checkpoints" / "last.ckpt") for folder in ("whole", "parts"))
        assert all(torch.equal(value, b["state_dict"][key]) for key, value in a["state_dict"].items())
        assert str(a["optimizer_states"]) == str(b["optimizer_states"])
        assert str(a["lr_schedulers"]) == str(b["lr_schedulers"])
        assert the_control(parts).edits == the_control(whole).edits
        assert rows(tmp_path / "whole") == rows(tmp_path / "parts")
        return parts

    return assert_resumes


def the_control(person):
    return next(callback for callback in person.trainer.callbacks if isinstance(callback, Control))


def edits_of(person):
    return [(edit["step"], edit["edit"]) for edit in the_control(person).edits]


def rows(folder):
    with open(folder / "metrics.csv") as file:
        return sorted(tuple(row.values()) for row in csv.DictReader(file))


# values


def test_a_value_acts_at_the_next_step_is_said_logged_and_noted(fit, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    text = "lr: 1e-2\nmomentum: 0.5\nweight_decay: 0.001\n"
    person = fit({5: text}, "optim=momentum", "optim.weight_decay=0.1")
    for key, before, after in ("lr", 0.05, 0.01), ("momentum", 0.9, 0.5), ("weight_decay", 0.1, 0.001):
        assert person.values(key) == pytest.approx([before] * 5 + [after] * 7)
        assert f"control.yaml: {key} {before:g} -> {after:g} at step 5" in caplog.messages
        assert ("5", "", key, f"{after:g}") in rows(tmp_path / "run")
    said = [(5, "lr 0.05 -> 0.01"), (5, "momentum 0.9 -> 0.5"), (5, "weight_decay 0.1 -> 0.001")]
    assert edits_of(person) == said
    assert set(person.values("weight_decay", group=1)) == {0.0}  # biases and norms


def test_the_schedule_goes_on_in_proportion(fit):
    cosine = [(1 + math.cos(math.pi * step / 11)) / 2 for step in range(12)]
    person = fit({4: "lr: 0.02"}, "optim=sgd", "scheduler=cosine")
    factor = 0.02 / (0.1 * cosine[4])
    expected = [0.1 * f if step < 4 else 0.1 * f * factor for step, f in enumerate(cosine)]
    assert person.values("lr") == pytest.approx(expected, abs=1e-12)


def test_groups_keep_their_ratio_and_only_the_hidden_layers_of_muon_decay(fit):
    person = fit({4: "lr: 0.002\nmomentum: 0.8\nweight_decay: 0.1"}, "optim=muon", "model.widths=[16,16]")
    for group, lr in enumerate([0.02, 0.001, 0.001]):
        assert person.values("lr", group) == pytest.approx([lr] * 4 + [lr / 10] * 8)
    assert [group["weight_decay"] for group in person.groups[11]] == [0.1, 0.0, 0.0]
    assert person.values("momentum") == [0.95] * 4 + [0.8] * 8


def test_plateau_reduces_what_was_set(fit):
    words = [
        "optim=sgd",
        "scheduler=plateau",
        "scheduler.patience=0",
        "+scheduler.threshold=10",
    ]  # which nothing passes
    person = fit({2: "lr: 0.02"}, *words, "monitor.metric=train/loss")
    assert person.values("lr") == pytest.approx([0.1] * 2 + [0.02] * 2 + [0.002] * 4 + [0.0002] * 4)


def test_adams_momentum_is_its_first_beta(fit):
    assert fit({4: "momentum: 0.5"}, "optim=adam").values("betas") == [(0.9, 0.999)] * 4 + [(0.5, 0.999)] * 8


def test_values_act_when_they_change_and_requests_each_time_the_file_is_saved(fit):
    text = "lr: 0.02\nvalidate: true"
    edits = {1: text, 5: text, 6: "", 7: text, 9: "lr: 0.02\nvalidate: false\nmomentum: 0.5"}
    person = fit(edits, "optim=momentum", "scheduler=exponential")
    kinds = [(step, what.partition(" ")[0]) for step, what in edits_of(person)]
    assert kinds == [(1, "lr"), (1, "validate"), (5, "validate"), (7, "validate"), (9, "momentum")]


def test_a_file_that_is_there_at_the_start_counts(fit, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "control.yaml").write_text("lr: 0.01")
    assert fit({}, "optim=sgd").values("lr") == pytest.approx([0.01] * 12)


def test_it_acts_between_steps_where_gradients_are_summed(fit, tmp_path):
    edits = {2: "lr: 0.02\ncheckpoint: true\nvalidate: true", 3: "stop: true"}
    person = fit(edits, "optim=sgd", "trainer.accumulate_grad_batches=2")  # 2 steps an epoch
    assert person.values("lr") == pytest.approx([0.1, 0.1, 0.02, 0.02])
    assert person.validated == [2, 3, 4]
    assert person.trainer.global_step == 4
    assert edits_of(person) == [(2, "lr 0.1 -> 0.02"), (2, "checkpoint"), (2, "validate"), (3, "stop")]


# weight decay in a run that began without


@pytest.mark.parametrize("optim", ["momentum", "adam"])
def test_biases_and_norms_do_not_begin_to_decay(optim, fit):
    person = fit({4: "weight_decay: 0.1"}, f"optim={optim}", "scheduler=cosine")
    assert [len(groups) for groups in person.groups.values()] == [1] * 4 + [2] * 8
    decayed, kept = person.trainer.optimizers[0].param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert decayed["lr"] == kept["lr"] and decayed["initial_lr"] == kept["initial_lr"]
    names = {id(p): name for name, p in person.trainer.lightning_module.network.named_parameters()}
    weights = [name for name, p in person.trainer.lightning_module.network.named_parameters() if p.ndim > 1]
    assert [names[id(p)] for p in decayed["params"]] == weights
    assert len(decayed["params"]) + len(kept["params"]) == len(names)


# what a resumed run does


@pytest.mark.parametrize("schedule", ["constant", "cosine", "exponential", "plateau"])
@pytest.mark.parametrize("kill_at", [5, 6])  # in the step that is edited, of which there is a checkpoint; and later
def test_a_resumed_run_keeps_every_edit(schedule, kill_at, assert_resumes):
    text = "lr: 0.02\nmomentum: 0.5\nweight_decay: 0.1\nvalidate: true"
    assert_resumes({5: text}, f"scheduler={schedule}", kill_at=kill_at)


def test_an_edit_after_the_last_checkpoint_is_made_again_and_one_before_it_is_not(fit):
    with pytest.raises(SystemExit):
        fit({2: "lr: 0.02", 6: "lr: 0.01"}, "optim=sgd", "scheduler=cosine", kill_at=7)
    person = fit({}, "optim=sgd", "scheduler=cosine")  # from step 4
    assert [step for step, _ in edits_of(person)] == [2, 4]
    assert person.values("lr")[0] == pytest.approx(0.01)
    assert fit({}, "optim=sgd", "scheduler=cosine", "trainer.max_epochs=4").values("lr")[0] < 0.01


# requests


def test_a_checkpoint_is_written_where_it_is_asked_for(fit, tmp_path):
    with pytest.raises(SystemExit):
        fit({6: "checkpoint: true"}, kill_at=7)
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 6
    person = fit({})
    assert person.trainer.global_step == 12
    assert edits_of(person) == [(6, "checkpoint")]


def test_one_that_is_asked_for_at_the_first_step_is_written_at_the_second(fit, tmp_path):
    with pytest.raises(SystemExit):
        fit({0: "checkpoint: true"}, kill_at=1)
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 1


def test_a_validation_comes_after_the_step_and_those_of_the_epochs_stay(fit, tmp_path):
    assert fit({5: "validate: true"}).validated == [4, 6, 8, 12]
    at = [step for step, _, name, _ in rows(tmp_path / "run") if name == "val/loss"]
    assert sorted(map(int, at)) == [3, 5, 7, 11]


def test_a_stop_ends_the_run_as_early_stopping_does_and_a_resumed_run_goes_on(train, monkeypatch):
    from athanor.tasks.classification import Classification

    original = Classification.on_train_batch_start

    def edited(self, batch, batch_idx):
        original(self, batch, batch_idx)
        if self.global_step == 5:
            Path("run/control.yaml").write_text("lr: 0.02\nstop: true")

    with monkeypatch.context() as patch:
        patch.setattr(Classification, "on_train_batch_start", edited)
        ran = train(*RUN, "optim=sgd", "hydra.run.dir=run")
    assert (ran.code, ran.err) == (0, "")
    results = Run("run").results
    assert (results["status"], results["steps"], results["ended_by"]) == ("finished", 7, "control.yaml")
    assert results["test"] and results["checkpoint"] == "checkpoints/best.ckpt"
    assert results["control"] == [{"step": 6, "edit": "lr 0.1 -> 0.02"}, {"step": 6, "edit": "stop"}]
    assert "edited   by hand (control.yaml) at step 6\n" in ran.out
    shutil.copytree("run", "copy")
    os.utime("copy/control.yaml", (1, 1))  # as `cp -r` gives it a time of its own
    for folder in "run", "copy":
        ran = train(f"resume={folder}", "trainer.max_epochs=4")
        assert (ran.code, ran.err) == (0, "")
        results = Run(folder).results
        assert (results["steps"], results["epochs"], len(results["control"])) == (16, 4, 2)
    assert results["ended_by"] == "max_epochs"


# mistakes

WRONG = {
    "lr: 0": "lr: '0' is not a number above 0",
    "lr: -1": "lr: '-1' is not a number above 0",
    "lr: .nan": "lr: '.nan' is not a number above 0",
    "lr: inf": "lr: 'inf' is not a number above 0",
    "lr: fast": "lr: 'fast' is not a number above 0",
    "lr:": "lr: '' is not a number above 0",
    "lr: [0.1]": "lr: ['0.1'] is not a number above 0",
    "momentum: 1": "momentum: '1' is not a number from 0 to below 1",
    "weight_decay: -1e-4": "weight_decay: '-1e-4' is not a number, 0 or more",
    "stop: now": "stop: 'now' is neither true nor false",
    "learning_rate: 0.1": "there is no 'learning_rate'; choose from: checkpoint, lr, momentum, stop, validate,",
    "momentun: 0.5\nlr: 0.5": "there is no 'momentun'; did you mean momentum?",
    "- lr": "['- lr'] is no line of key: value".replace("- lr", "lr"),
    "lr 0.1": "'lr 0.1' is no line of key: value, as in lr: 0.01",
    "lr: 0.5\n  momentum: 0.5": "mapping values are not allowed here (line 2)",
    "lr: [0.5": "expected ',' or ']', but got '<stream end>' (line 1)",
    "a: &a [1]\nb: *a": "it has an anchor, an alias or a tag",
    "lr: !!python/object/apply:os.system [ls]": "it has an anchor, an alias or a tag",
    "[" * 1500: "is not YAML",
    "? [a]\n: b": "found unhashable key",
    "lr: 0.5\n" * 2000: "it has more than 10,000 bytes",
    b"lr: \xff": "it is no text",
    "lr: 0.5\0": "it is not YAML",
    "lr: 0.5\n---\nlr: 0.6": "but found another document",
}


def test_a_wrong_edit_is_said_once_and_nothing_of_it_is_done(fit, caplog):
    edits = dict(enumerate(WRONG, 1))
    person = fit(edits, "optim=sgd", "trainer.max_epochs=7")
    assert set(person.values("lr")) == {0.1} and edits_of(person) == []
    warnings = [message for message in caplog.messages if message.startswith("control.yaml: ")]
    assert len(warnings) == len(WRONG)
    for warning, expected in zip(warnings, WRONG.values(), strict=True):
        assert expected in warning and warning.endswith("; ignored") and len(warning) < 150


@pytest.mark.parametrize(
    "text, words, said",
    [
        ("momentum: 0.5", "optim=adagrad", "momentum: Adagrad has no momentum"),
        ("momentum: 0.5", "optim=rmsprop", "momentum: RMSprop has momentum only where it began with it"),
        ("momentum: 0.5", "optim=momentum scheduler/momentum=rise", "momentum: the schedule sets it at each step"),
        ("weight_decay: 0.1", "optim=lbfgs data.batch_size=full", "weight_decay: LBFGS has no weight_decay"),
        ("weight_decay: 0.1", "optim=muon model.widths=[16,16] optim.normalize=true", "weight_decay: Muon holds the"),
        ("validate: true", "data.val_fraction=0", "validate: this run has no validation images"),
        ("checkpoint: true", "callbacks.checkpoints=null", "checkpoint: this run has no callbacks.checkpoints"),
        ("lr: 0.1", "optim=sgd optim.lr=0", "lr: the schedule has brought the learning rate to 0"),
    ],
)
def test_what_a_run_cannot_do_is_said_and_nothing_else_of_the_file_is_done(text, words, said, fit, caplog):
    words = [*words.split(), "trainer.max_epochs=2"]
    person = fit({1: f"stop: true\n{text}"}, *words)
    assert any(message.startswith(f"control.yaml: {said}") for message in caplog.messages)
    assert edits_of(person) == []
    assert person.trainer.current_epoch == 2


# unused


def test_a_run_without_the_file_looks_for_it_now_and_then(monkeypatch, tmp_path):
    monkeypatch.setattr(control, "INTERVAL", 0.05)
    clock, looks = [100.0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    callback = Control()
    monkeypatch.setattr(callback, "_time_and_size", lambda: looks.append(clock[0]))
    trainer = SimpleNamespace(default_root_dir=tmp_path, world_size=1, is_global_zero=True)
    callback.on_fit_start(trainer, None)
    for _ in range(1000):
        clock[0] += 0.001
        assert callback.agreement.ask("control", None) == 0
    assert 19 <= len(looks) <= 21


def test_it_can_be_taken_away(fit):
    person = fit({1: "stop: true"}, "callbacks.control=null")
    assert person.trainer.global_step == 12


# two processes

EDITED = """
import json
import os
from pathlib import Path
import lightning.pytorch as L
import torch

class Person(L.Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 5 and trainer.is_global_zero:
            Path(trainer.default_root_dir, "control.yaml").write_text(os.environ["EDIT"])

    def on_train_end(self, trainer, module):
        group = trainer.optimizers[0].param_groups[0]
        state = {"lr": group["lr"], "step": trainer.global_step, "groups": len(trainer.optimizers[0].param_groups)}
        state["weights"] = [p.tolist() for p in module.network.parameters()]
        Path(trainer.default_root_dir, f"{trainer.global_rank}.json").write_text(json.dumps(state))
"""


@pytest.mark.slow
def test_two_processes_act_at_the_same_step(tmp_path, run_process):
    (tmp_path / "edited.py").write_text(EDITED)
    words = [*TINY, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "logger=csv", "optim=momentum"]
    # slow enough for the file to be looked at within the run
    words += [
        "trainer.max_epochs=2000",
        "model.norm=none",
        "+callbacks.person._target_=edited.Person",
        "eval.test=false",
    ]
    text = "lr: 0.01\nweight_decay: 0.1\ncheckpoint: true\nvalidate: true\nstop: true"
    ran = run_process(tmp_path, "train.py", *words, "hydra.run.dir=run", PYTHONPATH=str(tmp_path), EDIT=text)
    assert (ran.code, ran.err) == (0, "")
    first, second = (json.loads((tmp_path / "run" / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first["lr"] == pytest.approx(0.01) and first["groups"] == 2
    results = Run(tmp_path / "run").results
    assert {edit["step"] for edit in results["control"]} == {first["step"] - 1}
    assert ran.out.count("control.yaml: lr 0.05 -> 0.01 at step") == 1
