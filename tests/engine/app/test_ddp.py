"""Two processes on this machine (gloo) against one: the same global batches give the same weights."""

import json
import os

import pytest
import torch

from athanor.engine.runs.run import Run, read_checkpoint

# 1295 training images: 20 steps of 64 an epoch; 143 to validate and 359 to test, neither even
WORDS = ["model=mlp", "model.norm=none", "model.widths=[64]", "optim=momentum", "trainer.max_epochs=2"]
TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, run_process):
    """A multirun over two seeds, each job on two processes."""
    cwd = tmp_path_factory.mktemp("ddp")
    ran = run_process(cwd, "train.py", "-m", *WORDS, *TWO, "seed=1,2")
    return ran, cwd


def weights(run):
    return read_checkpoint(run.dir / "checkpoints" / "last.ckpt")["state_dict"]


def assert_equal_runs(a, b):
    assert weights(a).keys() == weights(b).keys()
    for name, value in weights(a).items():
        torch.testing.assert_close(weights(b)[name], value, rtol=0, atol=1e-5)
    for stage in "train", "val", "test":
        assert b.results[stage]["loss"] == pytest.approx(a.results[stage]["loss"], abs=1e-5)
    assert (b.results["steps"], b.results["data"]) == (a.results["steps"], a.results["data"])


def test_a_multirun_on_two_processes_finishes_with_one_directory_a_job(sweep):
    ran, cwd = sweep
    assert (ran.code, ran.err) == (0, "")
    assert "warning" not in ran.out.lower()
    configs = sorted(path.relative_to(cwd).as_posix() for path in cwd.rglob("config.yaml"))
    assert [path.split("/")[-2] for path in configs] == ["0_seed=1", "1_seed=2"]
    assert len(list(cwd.glob("outputs/sweeps/*/*"))) == 1
    assert {path.name for path in cwd.iterdir()} == {"outputs"}
    assert "2 jobs; " in ran.out


@pytest.mark.parametrize("job, seed", [(0, 1), (1, 2)])
def test_each_job_on_two_processes_equals_one_process_with_its_own_seed(job, seed, sweep, train):
    _, cwd = sweep
    [folder] = cwd.glob(f"outputs/sweeps/*/*/{job}_seed={seed}")
    assert train(*WORDS, f"seed={seed}", "hydra.run.dir=alone").code == 0
    two, one = Run(folder), Run("alone")
    assert (two.results["seed"], two.results["devices"], one.results["devices"]) == (seed, 2, 1)
    assert two.results["steps"] == 40
    assert_equal_runs(one, two)


def test_each_image_is_counted_once_where_numbers_are_uneven(sweep):
    _, cwd = sweep
    for path in cwd.rglob("results.json"):
        results = json.loads(path.read_text())
        for stage, images in {"val": 143, "test": 359}.items():
            correct = results[stage]["acc"] * images
            assert correct == pytest.approx(round(correct), abs=1e-4)
            # correct / 144 times 143 would be no whole number
            assert 0 < round(correct) < images
    assert results["data"]["val"] % 2 == results["data"]["test"] % 2 == 1


def test_every_line_of_two_processes_is_said_once(sweep):
    ran, cwd = sweep
    logs = [path.read_text() for path in cwd.rglob("train.log")]
    assert len(logs) == 2
    for text in [*logs, *ran.out.split("#1 : ")]:
        assert text.count("epoch   1/2") == text.count("  stop ") == 1


def test_a_single_run_on_two_processes_resumes_on_two(train, tmp_path):
    whole = [*WORDS, "data.augment.crop=1"]
    assert train(*whole, "hydra.run.dir=alone").code == 0
    assert train(*whole, *TWO, "trainer.max_epochs=1", "hydra.run.dir=two").code == 0
    ran = train("resume=two", "trainer.max_epochs=2")
    assert (ran.code, ran.err) == (0, "")
    assert {path.name for path in tmp_path.iterdir()} == {"alone", "two", "outputs"}
    assert_equal_runs(Run("alone"), Run("two"))


@pytest.mark.slow
def test_a_bug_of_ones_own_on_two_processes_is_said_once_with_its_place(run_process, tmp_path):
    (tmp_path / "twice.py").write_text(
        "from torch import nn\n\nclass Net(nn.Linear):\n    def __init__(self, *, num_classes):\n"
        "        super().__init__(64, num_classes)\n\n    def forward(self, x):\n        b, c, h = x.shape\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    words = ["model=linear", "model._target_=twice.Net", *TWO, "logger=csv", "hydra.run.dir=here"]
    ran = run_process(tmp_path, "train.py", *words, PYTHONPATH=path)
    place, log = "  twice.py:8: b, c, h = x.shape", "  the traceback is in here/train.log"
    assert (ran.code, ran.err.splitlines()[1:]) == (1, [place, log])
    assert ran.err.startswith("error: ValueError: too many values to unpack (expected 3")
    assert (tmp_path / "here" / "train.log").read_text().count("Traceback (most recent call last)") == 2
    assert not list((tmp_path / "here").glob(".*"))


def test_a_mistake_found_on_two_processes_is_said_once(train):
    ran = train(*WORDS, *TWO, "data.batch_size=65", "hydra.run.dir=two")
    assert ran.code == 1
    assert ran.err == "error: data.batch_size=65 does not divide over 2 devices; use a multiple of 2\n"
    assert Run("two").results["status"] == "failed"
