"""The jobs of a sweep in processes of their own: some at a time on this machine, or in the queue of a SLURM that is
played by fake_slurm.py.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import fake_slurm
import pytest
from filelock import FileLock
from omegaconf import OmegaConf

from athanor.base.errors import UserError
from athanor.engine.app import launchers, slots
from athanor.engine.runs.run import Run
from athanor.engine.runs.sweep import Sweep
from athanor.training import slurm as slurm_commands

WORDS = ["model=mlp", "model.norm=none", "model.widths=[8]", "optim=momentum", "trainer.max_epochs=2", "logger=csv"]
PREEMPTED = """
import os, signal
import lightning.pytorch as L

class Preempted(L.Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        is_second = os.environ["SLURM_ARRAY_TASK_ID"] == "1" and os.environ["SLURM_RESTART_COUNT"] == "0"
        if is_second and (trainer.current_epoch, batch_idx) == (1, 3):
            os.kill(os.getpid(), signal.SIGUSR2)
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """The folder of a SLURM."""
    pytest.importorskip("submitit")
    folder = tmp_path / "slurm"
    for name, value in fake_slurm.install(folder).items():
        monkeypatch.setenv(name, value)
    return folder


@pytest.mark.slow
def test_jobs_are_submitted_without_waiting_and_collected_and_one_that_is_preempted_goes_on(
    slurm, train, tmp_path, monkeypatch
):
    (tmp_path / "preempted.py").write_text(PREEMPTED)
    callback = "+callbacks.preempted={_target_: preempted.Preempted}"
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    words = ["launcher=slurm", "launcher.wait=false", "launcher.gpus=0", "seed=0,1", "hydra.sweep.dir=sweep"]
    ran = train(*WORDS, *words, callback)
    assert (ran.code, ran.err) == (0, "")
    assert "job 1 seed=1 is submitted as 100_1" in ran.out
    assert ran.out.endswith("to wait for them and make the table: python train.py resume=sweep\n")
    assert not Path("sweep/results.csv").exists()
    assert Sweep("sweep").queue == {"0": "100_0", "1": "100_1"}
    script = (slurm / "100.sh").read_text()
    for option in ("array=0-1%2", "time=240", "mem=32GB", "signal=USR2@120", "cpus-per-task=8"):
        assert f"#SBATCH --{option}\n" in script
    ran = train("resume=sweep")
    assert (ran.code, ran.err) == (0, "")
    assert "job 1 seed=1 is in the queue as 100_1" in ran.out and "job 1 seed=1 finished" in ran.out
    assert "2 jobs; sweep/results.csv" in ran.out
    assert not (slurm / "101.sh").exists()
    first, second = Sweep("sweep").runs
    logs = [(run.dir / "train.log").read_text() for run in (first, second)]
    assert "resuming from" not in logs[0]
    assert "SIGUSR2: saving at the end of this step" in logs[1] and "resuming from" in logs[1]
    assert Sweep("sweep").queue == {}
    before = (first.dir / "results.json").read_bytes()
    assert train("resume=sweep").code == 0  # with nothing left to do
    assert (first.dir / "results.json").read_bytes() == before and not (slurm / "101.sh").exists()


@pytest.mark.slow
def test_a_job_over_two_nodes_is_one_run_with_a_process_for_each_device(slurm, train):
    nodes = ["launcher=slurm", "launcher.nodes=2", "launcher.gpus=0", "hydra.sweep.dir=sweep"]
    trainer = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=1", "trainer.num_nodes=2"]
    ran = train(*WORDS, *nodes, *trainer, "seed=1", "eval.test=true")
    assert (ran.code, ran.err) == (0, "")
    assert "#SBATCH --ntasks-per-node=1\n" in (slurm / "100.sh").read_text()
    assert train(*WORDS, "seed=1", "hydra.run.dir=alone").code == 0
    [run], alone = Sweep("sweep").runs, Run("alone")
    assert run.results["devices"] == 2
    for stage in "train", "val", "test":
        assert run.results[stage] == pytest.approx(alone.results[stage], abs=1e-5)
    assert (run.dir / "train.log").read_text().count("epoch   2/2") == 1


@pytest.mark.slow
@pytest.mark.slow
def test_ctrl_c_in_the_terminal_lets_the_jobs_save_once_and_the_sweep_goes_on(tmp_path, repo, run_process):
    pytest.importorskip("submitit")
    words = [*WORDS, "trainer.max_epochs=100", "callbacks.early_stopping=null", "eval.test=false"]
    words += ["launcher=local", "launcher.jobs=2", "seed=0,1,2", "hydra.sweep.dir=sweep"]
    process = subprocess.Popen(
        [sys.executable, str(repo / "train.py"), *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 200
    while len(list(tmp_path.glob("sweep/*/checkpoints/last.ckpt"))) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes that have not left it
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 130, said
    assert said.endswith("go on with python train.py resume=sweep\n")
    ended = Sweep(tmp_path / "sweep").runs
    assert len(ended) == 2
    for run in ended:
        assert run.results["status"] == "interrupted"
        assert (run.dir / "train.log").read_text().count("saving at the end of this step") == 1
    ran = run_process(tmp_path, "train.py", "resume=sweep")
    assert (ran.code, ran.err) == (0, "")
    assert "job 2 seed=2 finished" in ran.out and "3 jobs; sweep/results.csv" in ran.out


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """Jobs 0, 1 and 2 of a sweep, of which 0 has finished, 1 is in the queue as 7_1, and 2 has failed."""
    monkeypatch.chdir(tmp_path)
    Path("sweep.json").write_text(json.dumps({"typed": []}))

    def job(number, status):
        run = Run(tmp_path / str(number))
        run.dir.mkdir()
        run.write_results({"status": status, "error": "diverged"} if status == "failed" else {"status": status})
        made = object.__new__(launchers.SweepJob)
        made.number, made.name, made.words, made.run = number, f"job {number}", [f"seed={number}"], run
        made.is_missing = lambda: run.results.get("status") != "finished"
        return made

    Sweep(".").record_queue({"1": "7_1", "2": "7_2"})
    monkeypatch.setattr(slurm_commands, "queued", lambda numbers: {"7_1"} & set(numbers))
    return [job(0, "finished"), job(1, "running"), job(2, "failed")]


def test_a_job_that_has_finished_or_is_in_the_queue_is_not_submitted_again(jobs, capsys):
    submitted = []
    submit = lambda missing: submitted.extend(missing) or [SimpleNamespace(job_id="8")]  # noqa: E731
    launchers.submit_missing(jobs, Sweep("."), submit)
    assert submitted == [jobs[2]]
    assert Sweep(".").queue == {"1": "7_1", "2": "8"}
    assert capsys.readouterr().out == "job 1 is in the queue as 7_1\njob 2 is submitted as 8\n"


def test_a_sweep_of_slurm_goes_on_here_only_when_none_of_its_jobs_is_in_the_queue(jobs, monkeypatch, capsys):
    with pytest.raises(UserError, match="jobs 1 are in SLURM's queue; first type scancel 7_1"):
        launchers.run_here(jobs, Sweep("."), None, 1)
    monkeypatch.setattr(slurm_commands, "queued", lambda numbers: set())
    launchers.run_here(jobs[:1], Sweep("."), None, 1)
    assert Sweep(".").queue == {}


def test_nothing_is_submitted_where_slurm_does_not_say_what_is_in_its_queue(jobs, monkeypatch):
    def queued(numbers):
        raise OSError("squeue: Unable to contact slurm controller")

    monkeypatch.setattr(slurm_commands, "queued", queued)
    with pytest.raises(UserError, match="controller; jobs 1, 2 may be in the queue still"):
        launchers.submit_missing(jobs, Sweep("."), None)


def test_ctrl_c_leaves_jobs_in_the_queue_and_says_how_to_collect_them(jobs, monkeypatch, capsys):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        launchers.collect(jobs, Sweep("."))
    said = capsys.readouterr().out
    assert "2 jobs are in SLURM's queue (squeue --jobs=7; scancel 7)" in said
    assert "python train.py resume=" in said
    assert Sweep(".").queue == {"1": "7_1", "2": "7_2"}


def test_a_job_that_ends_without_results_is_recorded_as_failed_with_the_end_of_its_log(jobs, monkeypatch, capsys):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    (jobs[1].run.dir / "results.json").unlink()
    log = Path(".submitit/7_1/7_1_0_log.err")
    log.parent.mkdir(parents=True)
    log.write_text("slurmstepd: a line\nerror: there is no space left\n")
    monkeypatch.setattr(slurm_commands, "queued", lambda numbers: set())
    launchers.collect(jobs, Sweep("."))
    assert capsys.readouterr().out == "job 1 failed: there is no space left\njob 2 failed: diverged\n"
    assert jobs[1].run.results == {"status": "failed", "overrides": ["seed=1"], "error": "there is no space left"}
    assert Sweep(".").queue == {}


@pytest.mark.parametrize("queue", [{"0": "7; rm x"}, {"0": 7}, {"0": "--help"}, ["7"], {"0": "7_1\n"}])
def test_a_queue_of_unknown_origin_has_numbers_only(queue, tmp_path):
    (tmp_path / "sweep.json").write_text(json.dumps({"typed": [], "queue": queue}))
    with pytest.raises(UserError, match="`queue` does not have numbers"):
        _ = Sweep(tmp_path).queue


def test_squeue_is_asked_once_for_an_array_and_a_job_that_it_has_forgotten_has_ended(slurm):
    (slurm / "queue" / "100_1").touch()
    assert slurm_commands.queued(["100_0", "100_1", "99"]) == {"100_1"}
    assert slurm_commands.queued(["98"]) == slurm_commands.queued([]) == set()
    (slurm / "bin" / "squeue").write_text("#!/bin/sh\necho no controller >&2; exit 1\n")
    with pytest.raises(OSError, match="no controller"):
        slurm_commands.queued(["98"])


def test_a_sweeper_that_needs_results_is_not_left_without(tmp_path):
    pytest.importorskip("submitit")
    node = {"sweep": {"dir": str(tmp_path)}, "sweeper": {"_target_": "hydra_plugins.x.OptunaSweeper"}}
    config = OmegaConf.create({"hydra": node, "launcher": {"wait": False}})
    launcher = SimpleNamespace(cluster="slurm", settings={}, context=None, task_function=None, config=config)
    with pytest.raises(UserError, match="this sweeper chooses jobs by the results of others"):
        launchers.launch(launcher, [], 0)


def test_a_process_sees_its_share_of_the_gpus_and_ends_when_its_sweep_ends(tmp_path):
    """In a process of its own, which leaves its terminal."""
    code = (
        "import os, sys, time; from pathlib import Path; from athanor.engine.app import slots\n"
        "slots.enter(slots.Slot(sys.argv[1] or None, Path(sys.argv[2])))\n"
        "print(os.environ.get('CUDA_VISIBLE_DEVICES'), os.getsid(0) == os.getpid(), flush=True)\n"
        "time.sleep(60)"
    )
    lock = FileLock(tmp_path / ".lock")
    lock.acquire()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, gpus, lock.lock_file],
            env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},  # as submitit leaves it
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for gpus in ("2,3", "")
    ]
    assert [process.stdout.readline() for process in processes] == ["2,3 True\n", "None True\n"]
    lock.release()
    for process in processes:
        assert process.wait(30) in (130, -signal.SIGINT)
        process.stdout.close()


def test_gpus_are_dealt_to_the_jobs_that_run_at_a_time():
    assert [slots.share_of("0,1,2,3", number, 2) for number in range(2)] == ["0,1", "2,3"]
    assert [slots.share_of("4,5,7", number, 2) for number in range(2)] == ["4", "5,7"]
    assert [slots.share_of("0,1", number, 4) for number in range(4)] == ["0", "1", "0", "1"]
    assert (slots.share_of("", 0, 2), slots.share_of(None, 0, 2)) == ("", None)
