"""What Hydra's sweepers, such as Optuna's, are told of a job: the monitored metric of the chosen checkpoint."""

import json

import pytest

from athanor.engine.runs.run import Run

PROBE = """
import json
from hydra.experimental.callback import Callback

class Probe(Callback):
    def on_job_end(self, config, job_return, **kwargs):
        with open("returned.txt", "a") as file:
            file.write(json.dumps(job_return.return_value) + "\\n")
"""
WORDS = ["model=mlp", "model.widths=[8]", "model.norm=none", "optim=sgd", "trainer.max_epochs=1", "data.limit=200"]


@pytest.fixture
def returned(train, tmp_path, monkeypatch):
    """What the jobs of a command return."""
    (tmp_path / "probe.py").write_text(PROBE)
    monkeypatch.syspath_prepend(str(tmp_path))

    def returned(*words):
        (tmp_path / "returned.txt").write_text("")
        train(*WORDS, *words, "+hydra.callbacks.probe={_target_: probe.Probe}")
        return [json.loads(line) for line in (tmp_path / "returned.txt").read_text().splitlines()]

    return returned


def test_a_sweeper_gets_the_monitored_value_and_the_worst_of_a_failed_job(returned):
    good, failed = returned("-m", "optim.lr=0.01,1e30", "hydra.sweep.dir=sweep")
    assert good == Run("sweep/0_lr=0.01").results["val"]["loss"] and failed == float("inf")
    assert Run("sweep/1_lr=1e30").results["status"] == "failed"


def test_it_follows_the_monitor_whose_worst_value_may_be_the_least(returned):
    monitor = "monitor={metric: val/acc, mode: max}"
    good, failed = returned("-m", "optim.lr=0.01,1e30", monitor, "hydra.sweep.dir=sweep")
    assert good == Run("sweep/0_lr=0.01").results["val"]["acc"] and failed == -float("inf")
