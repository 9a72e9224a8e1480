"""Runs over two processes, whoever starts them: one directory a job, results as of one, no end without a word."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from athanor.base.errors import UserError
from athanor.engine.app import ranks
from athanor.engine.runs.run import Run

MLP = ["model=mlp", "model.norm=none", "model.widths=[32]", "optim=momentum", "trainer.max_epochs=2", "logger=csv"]
TWO = [*MLP, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, run_process):
    """The same job on one process."""
    folder = tmp_path_factory.mktemp("alone")
    assert run_process(folder, "train.py", *MLP, "seed=1", "hydra.run.dir=run").code == 0
    return Run(folder / "run")


def directories(folder: Path) -> list[Path]:
    """All that look like a run's or a job's."""
    return sorted({path.parent for path in folder.rglob("train.log")} | {p.parent for p in folder.rglob("config.yaml")})


def assert_equals(run: Run, alone: Run) -> None:
    assert run.results["status"] == "finished"
    assert run.results["devices"] == 2
    for stage in "train", "val", "test":
        assert run.results[stage] == pytest.approx(alone.results[stage], abs=1e-5)


def start_ranks(repo: Path, folder: Path, words: list[str], environments: list[dict]) -> list[subprocess.Popen]:
    command = [sys.executable, str(repo / "train.py"), *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return [subprocess.Popen(command, cwd=folder, env=os.environ | more, **pipes) for more in environments]


def free_port() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


def torchrun(folder: Path, repo: Path, *words: str) -> subprocess.CompletedProcess:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    command = [*launcher, str(repo / "train.py"), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)


@pytest.mark.slow
def test_torchrun_with_a_multirun_gives_each_job_one_directory(tmp_path, repo, alone):
    done = torchrun(tmp_path, repo, "-m", *TWO, "seed=1,2")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in directories(tmp_path)] == ["0_seed=1", "1_seed=2"]
    first, second = map(Run, directories(tmp_path))
    assert_equals(first, alone)
    assert second.results["seed"] == 2
    assert done.stdout.count("2 jobs; ") == 1


@pytest.mark.parametrize(
    "variables, words, error",
    [
        ("WORLD_SIZE=2", "trainer.devices=1", "torchrun has started 2 processes, and trainer.devices=1 asks for 1"),
        ("WORLD_SIZE=2", "trainer.devices=4", "torchrun has started 2 processes, and trainer.devices=4 asks for 4"),
        ("WORLD_SIZE=4", "trainer.devices=4", None),
        ("WORLD_SIZE=8", "trainer.devices=4 trainer.num_nodes=2", None),
        ("SLURM_STEP_NUM_TASKS=3", "trainer.devices=2", "srun has started 3 processes, and trainer.devices=2 asks for"),
    ],
)
def test_a_launcher_starts_one_process_for_each_device(variables, words, error, monkeypatch):
    """Else each of them would train the whole run, in one folder."""
    for name in (*ranks.TORCHRUN, *ranks.SRUN, ranks.PARENT):
        monkeypatch.delenv(name, raising=False)
    name, number = variables.split("=")
    for other in ranks.TORCHRUN if name in ranks.TORCHRUN else ranks.SRUN:
        monkeypatch.setenv(other, number if other == name else "0")
    monkeypatch.setattr(ranks.atexit, "register", lambda function: None)
    settings = dict(word.removeprefix("trainer.").split("=") for word in words.split())
    trainer = {"strategy": "ddp", "accelerator": "cpu", **{key: int(value) for key, value in settings.items()}}
    if error is None:
        assert ranks.spread({"trainer": trainer}, Path("run")) is False
    else:
        with pytest.raises(UserError, match=error):
            ranks.spread({"trainer": trainer}, Path("run"))


@pytest.mark.slow
def test_torchrun_with_more_processes_than_devices_trains_nothing(tmp_path, repo):
    done = torchrun(tmp_path, repo, *MLP, "trainer=cpu")
    assert done.returncode == 1
    assert "torchrun has started 2 processes, and trainer.devices=1 asks for 1" in done.stderr
    assert "type trainer=ddp trainer.devices=2" in done.stderr
    assert not list(tmp_path.rglob("metrics.csv"))


SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
SLURM |= {"SLURM_NODELIST": "localhost", "SLURM_NODEID": "0", "SLURM_JOB_NAME": "train"}


@pytest.mark.parametrize("scheduler", ["srun", pytest.param("variables", marks=pytest.mark.slow)])
def test_processes_that_a_scheduler_starts_share_one_directory(scheduler, tmp_path, repo, alone):
    port = free_port()
    if scheduler == "srun":
        common = SLURM | {"MASTER_PORT": port}
        environments = [common | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(2)]
    else:
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "NODE_RANK": "0"}
        environments = [common | {"LOCAL_RANK": str(rank)} for rank in range(2)]
    processes = start_ranks(repo, tmp_path, [*TWO, "seed=1"], environments[:1])
    time.sleep(1.5)  # another second would give another directory
    processes += start_ranks(repo, tmp_path, [*TWO, "seed=1"], environments[1:])
    outputs = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    [folder] = directories(tmp_path)
    assert_equals(Run(folder), alone)
    assert "epoch" not in outputs[1]  # it is the first that speaks


@pytest.mark.slow
def test_under_submitit_each_job_has_two_processes(tmp_path, run_process, alone):
    pytest.importorskip("submitit")
    ran = run_process(tmp_path, "train.py", *TWO, "launcher=local", "launcher.jobs=1", "seed=1,2")
    assert (ran.code, ran.err) == (0, "")
    assert [path.name for path in directories(tmp_path)] == ["0_seed=1", "1_seed=2"]
    assert_equals(Run(directories(tmp_path)[0]), alone)
    assert "2 jobs; " in ran.out


@pytest.mark.slow
def test_the_jobs_of_a_sweep_that_is_killed_save_and_end_and_the_sweep_can_be_resumed(tmp_path, repo, run_process):
    pytest.importorskip("submitit")
    long = ["trainer.max_epochs=150", "callbacks.early_stopping=null", "eval.test=false"]
    words = [*MLP, *long, "launcher=local", "launcher.jobs=1", "seed=0,1", "hydra.sweep.dir=sweep"]
    [process] = start_ranks(repo, tmp_path, words, [{}])
    wait_for(lambda: list(tmp_path.glob("sweep/*/checkpoints/last.ckpt")))
    process.kill()
    process.wait()  # for itself alone: its jobs hold the other end of the pipe
    process.stdout.close()
    [begun] = [path.parent for path in tmp_path.glob("sweep/*/config.yaml")]
    wait_for(lambda: Run(begun).results["status"] == "interrupted")
    time.sleep(3)
    assert [path.parent for path in tmp_path.glob("sweep/*/config.yaml")] == [begun]  # the job that waited ended, too
    ran = run_process(tmp_path, "train.py", "resume=sweep")
    assert (ran.code, ran.err) == (0, "")
    assert [Run(tmp_path / "sweep" / job).results["status"] for job in "01"] == ["finished", "finished"]


FAULTY = """
import os, signal
import lightning.pytorch as L

class Faulty(L.Callback):
    def __init__(self, how: str):
        self.how = how

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 5 and trainer.global_rank == 1 and module.seed == 1:
            if self.how == "raises":
                raise RuntimeError("the second process had enough")
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    "how, said",
    [
        ("raises", "RuntimeError: the second process had enough"),
        pytest.param("dies", "process 1 of 2 was killed by SIGKILL", marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_dies_ends_its_job_with_the_reason_and_the_multirun_goes_on(how, said, tmp_path, run_process):
    (tmp_path / "faulty.py").write_text(FAULTY)
    faulty = f"+callbacks.faulty={{_target_: faulty.Faulty, how: {how}}}"
    ran = run_process(tmp_path, "train.py", "-m", *TWO, faulty, "seed=1,2", PYTHONPATH=str(tmp_path))
    assert ran.code == 1
    assert said in ran.err
    assert "Traceback" not in ran.out + ran.err
    first, second = map(Run, directories(tmp_path))
    assert (first.results["status"], second.results["status"]) == ("failed", "finished")
    assert said in first.results["error"]
    assert "2 jobs, 1 failed" in ran.out


@pytest.mark.slow
def test_the_ranks_of_a_job_that_is_killed_end_with_it(tmp_path, repo):
    words = [*TWO, "trainer.max_epochs=1000", "callbacks.early_stopping=null", "hydra.run.dir=run"]
    [process] = start_ranks(repo, tmp_path, words, [{}])
    wait_for(lambda: (tmp_path / "run" / "checkpoints" / "last.ckpt").exists())
    ranks_of_it = children(process.pid)
    assert len(ranks_of_it) == 2
    process.kill()
    process.communicate()
    wait_for(lambda: not any(is_alive(pid) for pid in ranks_of_it))


INTERRUPTED = """
import os, signal
import lightning.pytorch as L

class Interrupted(L.Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.is_global_zero and (trainer.current_epoch, batch_idx) == (1, 100):
            os.kill(os.getpid() if trainer.world_size == 1 else os.getppid(), signal.SIGTERM)
"""


@pytest.mark.parametrize(
    "words", [pytest.param(MLP, id="one process"), pytest.param(TWO, id="two processes", marks=pytest.mark.slow)]
)
def test_a_signal_saves_at_the_end_of_the_step(words, tmp_path, repo):
    (tmp_path / "interrupted.py").write_text(INTERRUPTED)
    more = ["data.batch_size=2", "hydra.run.dir=run", "+callbacks.interrupted={_target_: interrupted.Interrupted}"]
    [process] = start_ranks(repo, tmp_path, [*words, *more], [{"PYTHONPATH": str(tmp_path)}])
    said, _ = process.communicate(timeout=90)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "SIGTERM: saving at the end of this step" in said
    assert "go on with python train.py resume=run" in said
    assert Run(tmp_path / "run").results["status"] == "interrupted"
    import torch

    contents = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    done = contents["global_step"] - 1295 // 2  # batches of the second epoch
    assert 100 <= done < 1295 // 2
    assert contents["within_epoch"]["sums"][:, 2].sum() == 2 * done


def wait_for(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@pytest.fixture
def launched(monkeypatch):
    """Sets these variables of launchers, as `RANK=0 LOCAL_RANK=0`, and takes away all others."""
    for name in ("RANK", "NODE_RANK", *ranks.TORCHRUN, *ranks.SRUN):
        monkeypatch.delenv(name, raising=False)

    def launched(variables: str) -> None:
        for name, _, value in (word.partition("=") for word in variables.split()):
            monkeypatch.setenv(name, value)

    return launched


MASTER = "MASTER_ADDR=127.0.0.1 MASTER_PORT=29500"


@pytest.mark.parametrize(
    "variables, others, main",
    [
        ("", False, True),
        (f"{MASTER} WORLD_SIZE=8 RANK=0 LOCAL_RANK=0", True, True),
        (f"{MASTER} WORLD_SIZE=8 RANK=4 LOCAL_RANK=0", True, False),
        (f"{MASTER} WORLD_SIZE=8 LOCAL_RANK=0 NODE_RANK=1", True, False),
        (f"{MASTER} WORLD_SIZE=2 LOCAL_RANK=1", True, False),
        (f"{MASTER} WORLD_SIZE=2 RANK=0 LOCAL_RANK=1", True, False),  # where a shell had the RANK
        (f"{MASTER} WORLD_SIZE=1 RANK=0 LOCAL_RANK=0", False, True),  # torchrun with one process
        ("SLURM_STEP_NUM_TASKS=4 SLURM_PROCID=3 SLURM_LOCALID=1", True, False),
        ("SLURM_STEP_NUM_TASKS=4 SLURM_PROCID=0 SLURM_LOCALID=0", True, True),
        ("SLURM_STEP_NUM_TASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0", False, True),
        ("SLURM_NTASKS=4 SLURM_PROCID=0 SLURM_LOCALID=0", False, True),  # a batch script, or a shell of salloc
        ("RANK=0 LOCAL_RANK=0", False, True),  # left over
    ],
)
def test_one_process_of_all_nodes_writes_and_knows_of_the_others(variables, others, main, launched):
    launched(variables)
    ranks.check_environment()
    assert (ranks.started_elsewhere(), ranks.is_main_process()) == (others, main)


@pytest.mark.parametrize("variables", ["WORLD_SIZE=4 RANK=0", "RANK=1", "WORLD_SIZE=1 RANK=1", "LOCAL_RANK=1"])
def test_a_part_of_what_a_launcher_sets_is_refused(variables, launched):
    launched(variables)
    names = " ".join(word.partition("=")[0] for word in sorted(variables.split(), key=lambda word: word[0] == "W"))
    with pytest.raises(UserError, match=f"WORLD_SIZE above 1; type unset {names}$"):
        ranks.check_environment()


def test_what_a_shell_has_left_over_does_not_reach_the_processes_of_a_run(launched, monkeypatch, tmp_path):
    launched("RANK=0 LOCAL_RANK=0 WORLD_SIZE=1 SLURM_PROCID=0 TORCHELASTIC_USE_AGENT_STORE=True")
    environments = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, env, **_: environments.append(env))
    for rank in range(2):
        ranks.start(rank, 2, tmp_path, 0, 29500)
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_PROCID", "TORCHELASTIC_USE_AGENT_STORE")
    values = [[env.get(name) for name in names] for env in environments]
    assert values == [["0", "0", "2", None, None], ["1", "1", "2", None, None]]


def test_a_sweep_goes_on_with_what_is_missing(tmp_path, run_process, train):
    words = ["-m", *MLP, "seed=0,1,2"]
    assert run_process(tmp_path, "train.py", *words).code == 0
    folders = directories(tmp_path)
    before = [path.joinpath("results.json").read_text() for path in folders]
    results = json.loads(before[1])
    (folders[1] / "results.json").write_text(json.dumps(results | {"status": "failed"}))
    for path in sorted(folders[2].rglob("*"), reverse=True):  # was never begun
        path.rmdir() if path.is_dir() else path.unlink()
    ran = train(f"resume={folders[0].parent}")
    assert (ran.code, ran.err) == (0, "")
    assert "0 has finished already" in ran.out and "3 jobs; " in ran.out
    assert directories(tmp_path) == folders
    after = [path.joinpath("results.json").read_text() for path in folders]
    assert after[0] == before[0]
    for i in 1, 2:
        for stage in "train", "val", "test":
            assert json.loads(after[i])[stage] == json.loads(before[i])[stage]


def test_a_sweep_of_unknown_origin_starts_nothing_of_hydras(tmp_path, train):
    for word in (
        "hydra.callbacks.x._target_=os.system",
        "+model={_target_: os.system}",
        "--config-dir=/evil",
        "model=../x",
    ):
        (tmp_path / "sweep.json").write_text(json.dumps({"typed": ["-m", word]}))
        ran = train(f"resume={tmp_path}")
        assert ran.code == 1
        assert ran.err == f"error: resume={tmp_path}: it was started with {word}; type it again after resume=\n"


def test_a_job_that_slurm_starts_again_goes_on_where_it_was(train, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    assert train(*MLP).code == 0
    [folder] = directories(tmp_path)
    results = Run(folder).results
    (folder / "results.json").write_text(json.dumps(results | {"status": "interrupted"}))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    ran = train(*MLP)
    assert (ran.code, ran.err) == (0, "")
    assert "resuming from" in ran.out
    assert directories(tmp_path) == [folder]
    assert train(*MLP, "seed=1").code == 0  # another job of the same script
    assert len(directories(tmp_path)) == 2


@pytest.mark.parametrize(
    "words, said",
    [
        (["launcher=local", "launcher.jobs=0"], "error: launcher.jobs=0: use 1 or more at a time\n"),
        (
            ["launcher=slurm"],
            "error: launcher=slurm needs SLURM, and there is no srun on this machine; type launcher=local\n",
        ),
    ],
    ids=["no job at a time", "no SLURM"],
)
def test_a_launcher_that_cannot_start_anything_says_so(words, said, train):
    pytest.importorskip("submitit")
    ran = train(*words, "seed=0,1")
    assert (ran.code, ran.err) == (1, said)
