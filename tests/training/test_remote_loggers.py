"""Loggers of services: a run that is resumed goes on in its own run there, in which nothing is shown twice."""

import json
import os
import sqlite3
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from athanor.engine.config import built_here
from athanor.engine.runs.run import Run
from athanor.engine.runs.sweep import Sweep
from athanor.training.remote_loggers import log_once, versions_in

WORDS = ["model=mlp", "model.widths=[8]", "optim=momentum", "data.limit=200", "data.batch_size=32", "eval.test=false"]
WORDS += ["trainer.max_epochs=3", "trainer.log_every_n_steps=1", "callbacks.checkpoints.every_minutes=1e-9"]
STORE = tempfile.TemporaryDirectory(prefix="athanor-trackio-")
TRACKIO = {"TRACKIO_DIR": STORE.name, "TRACKIO_STORAGE_MODE": "sqlite", "HF_HUB_OFFLINE": "1"}


class Service:
    """A logger that sends to a list."""

    def __init__(self):
        self.sent = []

    def log_metrics(self, metrics, step=None):
        self.sent += [(name, step) for name in metrics]


def test_what_an_earlier_process_has_logged_is_left_out_metric_by_metric(tmp_path):
    path = tmp_path / "logged.json"
    first, second, third = Service(), Service(), Service()
    log_once(first, path, is_new=True)
    for step in range(5):
        first.log_metrics({"a": 0.0, "epoch": 0}, step)
    first.log_metrics({"b": 0.0, "epoch": 0}, 2)
    log_once(second, path, is_new=False)
    for step in range(2, 7):
        second.log_metrics({"a": 0.0, "b": 0.0}, step)
    second.log_metrics({"a": 0.0})
    assert second.sent == [("b", 3), ("b", 4), ("a", 5), ("b", 5), ("a", 6), ("b", 6), ("a", None)]
    assert json.loads(path.read_text()) == {"a": 6, "epoch": 2, "b": 6}
    log_once(third, path, is_new=True)  # a run of its own has none of it
    third.log_metrics({"a": 0.0}, 1)
    assert third.sent == [("a", 1)]
    assert len(first.sent) == 12


def test_a_version_from_a_file_is_a_name_and_leads_nowhere():
    named = {"wandb": "a1b2", "mlflow": "0" * 32, "csv": "", "number": 0, "none": None}
    assert versions_in(named) == {"wandb": "a1b2", "mlflow": "0" * 32, "number": 0}
    for text in ("../x", "a/b", "http://x", "~/x", ".", "..", "a\n", "x" * 129, "${oc.env:HOME}", ["a"], {"a": "b"}):
        assert versions_in({"wandb": text}) == {}
    assert versions_in(["a"]) == versions_in(None) == {}


def records(log):
    """The records of a file in the format of LevelDB's log: blocks of 32 KiB with parts of records in them."""
    record, place = b"", 7  # after wandb's own header
    while place + 7 <= len(log):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(log[place + 4 : place + 6], "little"), log[place + 6]
        record += log[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield record
            record = b""


def wandb_values(folder):
    """The metrics and steps of all that wandb has written, by the numbers of its runs."""
    from wandb.proto import wandb_internal_pb2

    values = {}
    for path in folder.glob("wandb/offline-run-*/*.wandb"):
        found = values.setdefault(path.stem.removeprefix("run-"), [])
        for data in records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            items = {(item.key or ".".join(item.nested_key)): item.value_json for item in record.history.item}
            step = items.pop("trainer/global_step", None)
            found += [(name, int(step)) for name in items if "/" in name and step is not None]
    return values


def mlflow_values(folder):
    from mlflow.tracking import MlflowClient

    client = MlflowClient("sqlite:///mlflow.db")
    [experiment] = [each for each in client.search_experiments() if each.name == "athanor"]
    values = {}
    for run in client.search_runs([experiment.experiment_id]):
        histories = [client.get_metric_history(run.info.run_id, name) for name in run.data.metrics if "/" in name]
        values[run.info.run_id] = [(value.key, value.step) for history in histories for value in history]
    return values


def trackio_values(folder):
    import trackio

    trackio.finish()
    with sqlite3.connect(f"{STORE.name}/athanor.db") as database:
        rows = database.execute("SELECT run_name, step, metrics FROM metrics").fetchall()
    values = {}
    for name, step, metrics in rows:
        values.setdefault(name, []).extend((key, step) for key in json.loads(metrics) if "/" in key)
    return values


SERVICES = {
    "wandb": (wandb_values, ["logger.wandb.offline=true"]),
    "mlflow": (mlflow_values, ["logger.mlflow.tracking_uri=sqlite:///mlflow.db"]),
    "trackio": (trackio_values, []),
}


@pytest.mark.parametrize("name", SERVICES)
def test_a_run_that_is_interrupted_and_resumed_is_one_run_of_the_service(name, train, interrupted, monkeypatch):
    for variable, value in (TRACKIO | {"WANDB_SILENT": "true"}).items():
        monkeypatch.setenv(variable, value)
    pytest.importorskip(name, reason=f'pip install -e ".[{name}]"')
    read, words = SERVICES[name]
    words = [f"logger=[csv,{name}]", *words, *WORDS]
    with interrupted(7):
        assert train(*words, "hydra.run.dir=run").code != 0
    version = Run("run").results["loggers"][name]
    last = Path("run/checkpoints/last.ckpt")
    before = read(Path("run"))
    assert list(before) == [version] and ("train/loss_step", 6) in before[version]
    os.replace("run/checkpoints/previous.ckpt", last)  # as by a process that was killed after it had logged more
    ran = train("resume=run", "trainer.max_epochs=4")
    assert (ran.code, ran.err) == (0, "")
    after = read(Path("run"))
    assert list(after) == [version] == [Run("run").results["loggers"][name]]
    counts = Counter(after[version])
    assert set(counts.values()) == {1}
    steps = {(key, int(step)) for key, values in Run("run").history.items() if "/" in key for step in values[0]}
    assert set(counts) == steps
    assert train(*words, "-m", "seed=1,2", "hydra.sweep.dir=sweep").code == 0
    versions = [run.results["loggers"][name] for run in Sweep("sweep").runs]
    assert len({version, *versions}) == 3


@pytest.mark.parametrize("is_own", [True, False], ids=["own", "sent by somebody"])
def test_only_a_run_that_was_made_here_goes_on_in_a_run_that_its_file_names(is_own, train, monkeypatch, trusting):
    words = ["logger=[]", "+logger.theirs={_target_: lightning.pytorch.loggers.TensorBoardLogger}", *WORDS]
    assert train(*words, "hydra.run.dir=run").code == 0
    run = Run("run")
    assert run.results["loggers"] == {"theirs": 0}
    run.write_results(run.results | {"loggers": {"theirs": "victim"}})
    monkeypatch.setattr(built_here, "is_listed", lambda composed: is_own)
    trusting("lightning", "tensorboard")
    ran = train("resume=run", "trainer.max_epochs=4")
    assert ran.code == 0, ran.err
    assert run.results["loggers"] == {"theirs": "victim" if is_own else 1}
    assert Path("run/lightning_logs/victim").exists() == is_own
