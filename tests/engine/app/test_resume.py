"""What a run that is gone on with owes to the one that was stopped; scripts/torture.py does the same at random."""

import csv
import errno
import json
import logging
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from athanor.callbacks.checkpoints import Checkpoints
from athanor.engine.app.job import Job
from athanor.engine.runs import provenance
from athanor.engine.runs.run import Run, read_checkpoint
from athanor.tasks.classification import Classification
from athanor.training import checkpoint_files
from athanor.training.loggers import CSVLog, TensorBoard
from athanor.training.signals import Signals

TINY = ["model=mlp", "data.limit=320", "data.batch_size=32", "trainer.max_epochs=3"]  # 9 steps an epoch
EACH_STEP = "callbacks.checkpoints.every_minutes=1e-9"
PLACES = {  # where it is stopped, and at which step
    "at a step": (Classification, "on_train_batch_start", 13),
    "at the first step of an epoch": (Classification, "on_train_batch_start", 18),
    "in the backward pass": (Classification, "on_after_backward", 13),
    "in validation": (Classification, "on_validation_epoch_start", 18),
    "at the end of an epoch": (Classification, "on_train_epoch_end", 18),
    "before the checkpoint": (Checkpoints, "on_train_epoch_end", 18),
    "before it is published": (Checkpoints, "_publish", 18),
    "before the end": (Checkpoints, "on_train_end", 27),
    "in the test": (Classification, "on_test_epoch_end", 27),
}


class Killed(BaseException):
    """As SIGKILL: nothing catches it, and nothing is tidied up."""


@pytest.fixture
def stopped(train, monkeypatch):
    """A run in folder `name` that ends at one of the places, as if the process had been killed there."""

    def stopped(name, words, place):
        owner, hook, step = PLACES[place]
        original = getattr(owner, hook)

        def killed(self, *arguments):
            trainer = self.trainer if owner is Classification else arguments[0]
            if trainer.global_step == step:
                raise Killed
            return original(self, *arguments)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(owner, hook, killed)
            patch.setattr("athanor.engine.app.job.Job.write", lambda self, fresh=False, **values: None)
            train(*words, f"hydra.run.dir={name}")

    return stopped


def shown_by_tensorboard(run):
    board = EventAccumulator(str(run.dir)).Reload()
    # sorted: files that one process begins in the same second are read by their number as text, so 10 before 9
    return {tag: sorted((event.step, event.value) for event in board.Scalars(tag)) for tag in board.Tags()["scalars"]}


def rows(run):
    with open(run.dir / "metrics.csv") as file:
        return sorted(tuple(row.values()) for row in csv.DictReader(file))


def assert_equal(whole, parts):
    for name in "last", "best":
        a, b = (read_checkpoint(run.dir / "checkpoints" / f"{name}.ckpt") for run in (whole, parts))
        assert a["global_step"] == b["global_step"]
        assert all(torch.equal(value, b["state_dict"][key]) for key, value in a["state_dict"].items())
        assert str(a["optimizer_states"]) == str(b["optimizer_states"])
    for stage in "train", "val", "test":
        assert parts.results[stage] == whole.results[stage]
    assert rows(parts) == rows(whole)
    assert shown_by_tensorboard(parts) == shown_by_tensorboard(whole)


@pytest.mark.parametrize("often", [False, True], ids=["each epoch", "each step"])
@pytest.mark.parametrize("place", PLACES)
def test_a_run_that_was_killed_ends_as_one_that_was_not(place, often, stopped, train):
    words = [*TINY, "model.dropout=0.2", "trainer.log_every_n_steps=4", *([EACH_STEP] if often else [])]
    assert train(*words, "hydra.run.dir=whole").code == 0
    stopped("parts", words, place)
    ran = train("resume=parts")
    assert (ran.code, ran.err) == (0, "")
    assert_equal(Run("whole"), Run("parts"))


def test_a_run_of_two_processes_goes_on_in_mid_epoch_on_one(stopped, train):
    words = [*TINY, "trainer.max_epochs=2", EACH_STEP]
    assert train(*words, "hydra.run.dir=whole").code == 0
    stopped("parts", words, "at a step")
    file = Path("parts/checkpoints/last.ckpt")
    contents = read_checkpoint(file)
    [sums] = contents["within_epoch"]["sums"]
    contents["within_epoch"]["sums"] = torch.stack([sums / 4, sums * 3 / 4])  # as if two processes had made them
    torch.save(contents, file)
    ran = train("resume=parts")
    assert (ran.code, ran.err) == (0, "")
    assert rows(Run("parts")) == rows(Run("whole"))


CONFIGS = Path(__file__).parents[3] / "configs"
OPTIONS = [
    f"{group}={path.stem}" for group in ("optim", "scheduler") for path in sorted((CONFIGS / group).glob("*.yaml"))
]


FEW = ("optim=adam", "optim=muon", "optim=momentum", "scheduler=cosine", "scheduler=one_cycle", "scheduler=plateau")
MANY = [option for option in OPTIONS if option not in (*FEW, "optim=lbfgs")]


@pytest.mark.parametrize("option", [*FEW, *(pytest.param(option, marks=pytest.mark.slow) for option in MANY)])
def test_every_optimizer_and_schedule_goes_on_in_mid_epoch(option, stopped, train):
    words = [*TINY, "data.limit=120", "trainer.max_epochs=8", "trainer.accumulate_grad_batches=1", option, EACH_STEP]
    PLACES["in the fifth epoch"] = (Classification, "on_after_backward", 13)  # 3 steps an epoch
    assert train(*words, "hydra.run.dir=whole").code == 0
    stopped("parts", words, "in the fifth epoch")
    assert train("resume=parts").code == 0
    assert_equal(Run("whole"), Run("parts"))


def test_a_validation_within_the_epoch_is_not_forgotten(stopped, train):
    words = [*TINY, "+trainer.val_check_interval=0.5", "scheduler=plateau", EACH_STEP]  # at steps 4 and 8 of 9
    assert train(*words, "hydra.run.dir=whole").code == 0
    stopped("parts", words, "before it is published")
    assert train("resume=parts").code == 0
    assert_equal(Run("whole"), Run("parts"))


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "text", "gone"])
def test_a_torn_checkpoint_is_named_and_the_one_before_is_used(damage, stopped, train):
    assert train(*TINY, "hydra.run.dir=whole").code == 0
    stopped("parts", TINY, "in the test")
    last = Run("parts").dir / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    if damage != "flipped":
        last.unlink()  # best.ckpt is the same file
    content[len(content) // 2] ^= 255
    damaged = {"cut": content[: len(content) // 2], "empty": b"", "flipped": content, "text": b"hello"}
    if damage != "gone":
        last.write_bytes(damaged[damage])
    ran = train("resume=parts")
    assert (ran.code, ran.err) == (0, "")
    assert ("last.ckpt is not a checkpoint, or torn" in ran.out) == (damage != "gone")
    newest = "previous" if damage == "flipped" else "best"
    assert f"resuming from parts/checkpoints/{newest}.ckpt" in ran.out
    assert_equal(Run("whole"), Run("parts"))


def contents(folder):
    """Of all files in it but train.log, which may say why a command did nothing, and the lock."""
    files = [path for path in Path(folder).rglob("*") if path.is_file() and path.name not in ("train.log", ".lock")]
    return {path: path.read_bytes() for path in files}


REFUSALS = [OSError(errno.EACCES, "Permission denied"), OSError(errno.EIO, "I/O error")]
REFUSALS += [OSError(errno.ESTALE, "Stale file handle"), MemoryError()]


@pytest.mark.parametrize("refusal", REFUSALS, ids=repr)
@pytest.mark.parametrize("name", ["last.ckpt", "previous.ckpt"])
def test_a_checkpoint_that_cannot_be_read_ends_the_resume_and_changes_nothing(
    refusal, name, stopped, train, monkeypatch
):
    stopped("parts", TINY, "in the test")
    if name == "previous.ckpt":
        Path("parts/checkpoints/last.ckpt").write_bytes(b"torn")  # best.ckpt is the same file
    before, archive = contents("parts"), checkpoint_files.zipfile.ZipFile

    def refuse(path, *arguments):
        if path.name == name:
            raise refusal
        return archive(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_files.zipfile, "ZipFile", refuse)
        ran = train("resume=parts")
    reason = refusal.strerror if isinstance(refusal, OSError) else "out of memory"
    assert ran.code == 1
    assert ran.err == (
        f"error: cannot read parts/checkpoints/{name}: {reason}\n  it may be whole; try again when it can be read\n"
    ).replace("parts/", f"{Path.cwd()}/parts/")
    assert contents("parts") == before
    assert train("resume=parts").code == 0


@pytest.mark.parametrize("finished", [False, True])
def test_a_run_with_a_history_and_no_checkpoint_is_not_started_over(finished, stopped, train):
    stopped("parts", TINY, "in the test")
    if finished:
        assert train("resume=parts").code == 0
    for path in (Run("parts").dir / "checkpoints").iterdir():
        path.unlink()
        path.write_bytes(b"torn")
    files = "there are best.ckpt, last.ckpt" + ("" if finished else ", previous.ckpt")
    results = ["results.json is of 3 epochs"] if finished else []
    for history in [files, *results, "metrics.csv has more than two epochs"]:
        before = contents("parts")
        ran = train("resume=parts")
        assert ran.code == 1
        assert ran.err == (
            f"error: parts has no checkpoint to go on from, but {history}; starting over would erase that\n"
            "  type run=parts for the same run in a new folder, or delete this one\n"
        )
        assert contents("parts") == before
        for path in (Run("parts").dir / "checkpoints").iterdir():
            path.unlink()
        if "results" in history:
            Run("parts").write_results({"status": "interrupted"})
    assert train("run=parts", "hydra.run.dir=again").code == 0


def test_a_run_that_was_killed_before_its_first_checkpoint_is_started_over(stopped, train):
    assert train(*TINY, "hydra.run.dir=whole").code == 0
    stopped("parts", TINY, "before it is published")
    for path in (Run("parts").dir / "checkpoints").iterdir():
        path.unlink()  # as if the disk were so slow that the first epoch was not written before the second had ended
    ran = train("resume=parts")
    assert (ran.code, ran.err) == (0, "")
    assert "there is no checkpoint yet; starting over in parts" in ran.out
    assert_equal(Run("whole"), Run("parts"))


def test_the_file_of_another_epoch_is_not_tested_under_the_name_of_the_chosen(train, monkeypatch):
    original = Job.load_chosen

    def exchanged(self, task, trainer):
        folder = self.dir / "checkpoints"
        (folder / "best.ckpt").unlink()
        os.link(folder / "previous.ckpt", folder / "best.ckpt")
        original(self, task, trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Job, "load_chosen", exchanged)
        ran = train(*TINY, "optim.lr=1e-4", "hydra.run.dir=run")
    assert ran.code == 1
    assert "best.ckpt is of epoch 2 and step 18, not of epoch 3 and step 27\n  type python train.py resume=" in ran.err
    assert train("resume=run").code == 0
    assert Run("run").results["checkpoint_epoch"] == 3
    assert read_checkpoint(Path("run/checkpoints/best.ckpt"))["epoch"] == 2


def test_an_early_stop_is_remembered(stopped, train):
    words = [*TINY, "callbacks.early_stopping.patience=1", "optim.lr=1e-9", "callbacks.early_stopping.min_delta=1"]
    assert train(*words, "trainer.max_epochs=9", "hydra.run.dir=whole").code == 0
    assert Run("whole").results["epochs"] == 2
    PLACES["after the stop"] = (Classification, "on_test_epoch_end", 18)
    stopped("parts", [*words, "trainer.max_epochs=9"], "after the stop")
    assert train("resume=parts").code == 0
    assert_equal(Run("whole"), Run("parts"))


STOPS = {  # which end a run within an epoch, and the word for it in results.json
    "control.yaml": "max_epochs=3",
    "max_steps": "max_steps=13",
    "max_time": "max_epochs=3",
}


@pytest.mark.parametrize("ended_by", STOPS)
def test_a_run_that_was_killed_after_it_had_been_stopped_within_an_epoch_only_finishes(
    ended_by, stopped, train, monkeypatch
):
    words = [*TINY, f"trainer.{STOPS[ended_by]}"]
    if ended_by == "max_time":
        words += ["+trainer.max_time=00:00:00:13"]
        clock = [0.0]
        monkeypatch.setattr("lightning.pytorch.callbacks.timer.time", SimpleNamespace(monotonic=lambda: clock[0]))
    original = Classification.on_train_batch_start

    def stop(self, batch, batch_idx):
        original(self, batch, batch_idx)
        if ended_by == "control.yaml" and self.global_step == 12:
            Path(self.trainer.default_root_dir, "control.yaml").write_text("stop: true")
        if ended_by == "max_time":
            clock[0] = self.global_step + 1.0

    monkeypatch.setattr("athanor.callbacks.control.INTERVAL", 0)
    monkeypatch.setattr(Classification, "on_train_batch_start", stop)
    assert train(*words, "hydra.run.dir=whole").code == 0
    whole = Run("whole").results
    assert (whole["ended_by"], whole["epochs"]) == (ended_by, 2) and 12 < whole["steps"] < 18
    PLACES["after the stop"] = (Classification, "on_test_epoch_end", whole["steps"])
    if ended_by == "max_time":
        clock[0] = 0.0
    stopped("parts", words, "after the stop")
    ran = train("resume=parts")
    assert (ran.code, ran.err) == (0, "")
    assert_equal(Run("whole"), Run("parts"))
    for key in "steps", "epochs", "ended_by":
        assert Run("parts").results[key] == whole[key]


def test_a_finished_run_keeps_its_last_and_best_checkpoint_alone(train):
    assert train(*TINY, "hydra.run.dir=run").code == 0
    assert sorted(os.listdir("run/checkpoints")) == ["best.ckpt", "last.ckpt"]


@pytest.mark.parametrize("minutes", [0, -1])
def test_a_time_that_is_none_is_refused(minutes):
    with pytest.raises(ValueError, match=r"callbacks\.checkpoints\.every_minutes=.*: use more than 0, or null"):
        Checkpoints("val/loss", "min", 1, "best", minutes)


# loggers


def test_metrics_csv_loses_what_will_be_logged_again_and_a_torn_row(tmp_path):
    log = CSVLog(str(tmp_path))
    for step in range(4):
        log.log_metrics({"loss": step / 2, "epoch": 0}, step)
    log.save()
    with open(log.path, "a") as file:
        file.write("1,0,lo")
    CSVLog(str(tmp_path), purge_step=2)
    assert log.path.read_text() == "step,epoch,metric,value\n0,0,loss,0\n1,0,loss,0.5\n"


def test_tensorboard_hides_what_will_be_logged_again(tmp_path):
    for first, purge in (0, None), (2, 2):
        log = TensorBoard(str(tmp_path), {}, purge)
        for step in range(first, 4):
            log.log_metrics({"loss": float(step)}, step)
        log.save()
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in events] == [(0, 0), (1, 1), (2, 2), (3, 3)]


# signals


def test_a_second_signal_ends_at_once_and_a_first_where_nobody_saves():
    signals = Signals()
    with signals.handled():
        with pytest.raises(SystemExit) as end:
            signal.raise_signal(signal.SIGTERM)
        assert end.value.code == 128 + signal.SIGTERM
        signals.saves_at_step = True
        signal.raise_signal(signal.SIGUSR1)
        assert signals.asked == signal.SIGUSR1
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_what_handled_a_signal_before_is_called_after_saving():
    called = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: called.append(number))  # as submitit's, which requeues
    try:
        signals = Signals()
        with signals.handled():
            signals.saves_at_step = True
            signal.raise_signal(signal.SIGUSR2)
            assert called == []
            signals.leave(signals.asked)
        assert called == [signal.SIGUSR2]
    finally:
        signal.signal(signal.SIGUSR2, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_run_that_a_signal_ends_goes_on_from_that_very_step(number, train, monkeypatch):
    assert train(*TINY, "hydra.run.dir=whole").code == 0
    original = Classification.on_after_backward

    def signalled(self):
        if self.trainer.global_step == 13:
            signal.raise_signal(number)
        original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Classification, "on_after_backward", signalled)
        ran = train(*TINY, "hydra.run.dir=parts")
    assert ran.code == 128 + number
    assert f"{signal.Signals(number).name}: saving at the end of this step" in ran.out
    assert Run("parts").results["status"] == "interrupted"
    assert read_checkpoint(Run("parts").dir / "checkpoints" / "last.ckpt")["global_step"] == 14
    assert train("resume=parts").code == 0
    assert_equal(Run("whole"), Run("parts"))


def test_at_the_end_of_its_time_slurm_is_asked_for_the_job_again(train, monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.write_text(f"#!/bin/sh\necho $* > {tmp_path / 'asked'}\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    original = Classification.on_after_backward
    monkeypatch.setattr(
        Classification, "on_after_backward", lambda self: (signal.raise_signal(signal.SIGUSR1), original(self))
    )
    ran = train(*TINY, "hydra.run.dir=run")
    assert ran.code == 128 + signal.SIGUSR1
    assert "SLURM will start job 12_3 again" in ran.out
    assert (tmp_path / "asked").read_text() == "requeue 12_3\n"


# the same again


def test_a_run_says_where_it_is_not_as_before(train, caplog):
    assert train(*TINY, "hydra.run.dir=a").code == 0
    results = Run("a").results
    changed = results | {"threads": 7, "versions": results["versions"] | {"torch": "2.9.0"}}
    changed["data"] = results["data"] | {"train_hash": "0"}
    changed["val"] = results["val"] | {"loss": 0.5}
    (Run("a").dir / "results.json").write_text(json.dumps(changed))
    with caplog.at_level(logging.INFO):
        out = train("run=a", "hydra.run.dir=b").out
    now = results["versions"]["torch"]
    assert f"not as a: versions.torch 2.9.0 then, {now} now" in out
    assert "not as a: threads 7 then, 1 now" in out
    assert f"not as a: data.train_hash 0 then, {results['data']['train_hash']} now" in out
    assert f"val/loss 0.5 then, {results['val']['loss']} now" in out


def test_a_run_that_is_repeated_says_that_it_gave_the_same(train):
    assert train(*TINY, "hydra.run.dir=a").code == 0
    out = train("run=a", "hydra.run.dir=b").out
    assert "train, val, test: the same as in a, to the last digit" in out
    assert "not as" not in out


def test_differences_are_found_at_any_depth_and_where_both_know():
    then = {"threads": 1, "git": {"commit": "a", "changed": ["x"]}, "old": 1}
    now = {"threads": 2, "git": {"commit": "b", "changed": []}, "new": 2}
    assert list(provenance.differences(then, now)) == ["threads 1 then, 2 now", "git.commit a then, b now"]


def test_the_hash_of_data_knows_each_pixel_and_label(make_data, source):
    data = make_data()
    before = provenance.describe_data(data, test=True)
    source.train_inputs[3, 0, 0, 0] ^= 1
    after = provenance.describe_data(data, test=False)
    assert after["train_hash"] != before["train_hash"]
    assert "test_hash" not in after
    source.test_targets[0] ^= 1
    assert provenance.describe_data(data, test=True)["test_hash"] != before["test_hash"]


def test_two_processes_do_not_train_one_run(train):
    assert train(*TINY, "hydra.run.dir=run").code == 0
    before = Run("run").results
    with FileLock("run/.lock"):
        ran = train("resume=run", "trainer.max_epochs=4")
    assert ran.code == 1
    assert ran.err == "error: run is being trained by another process; wait for it, or end it\n"
    assert Run("run").results == before


def test_the_folder_of_checkpoints_is_synced_after_the_renaming(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda opened: (synced.append(os.fstat(opened).st_mode), fsync(opened)))
    checkpoint_files.write_checkpoint({"epoch": 1}, tmp_path / "last.ckpt")
    assert len(synced) == 2
