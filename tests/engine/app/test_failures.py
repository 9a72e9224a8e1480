"""What a run says when memory, disks or folders fail it, and that nothing fails while it says so."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from athanor.engine.app.explain import explain
from athanor.training.loggers import CSVLog

TINY = ["model=linear", "data.limit=200", "trainer.max_epochs=2", "hydra.run.dir=here"]


# memory


class OutOfMemoryError(RuntimeError):
    """As torch.cuda's, which a machine without a GPU does not raise."""


CONFIG = {"data": {"batch_size": 512, "eval_batch_size": 64}, "model": {}}


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 3.5 GiB for an array"),
        RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 3500000000 bytes. Error code 12"
        ),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 3500000000 bytes."),
        OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total ..."),
    ],
    ids=lambda error: str(error)[:40],
)
def test_a_run_that_is_out_of_memory_names_its_batches_and_the_log(error, tmp_path):
    first, second = explain(error, tmp_path / "train.log", CONFIG).splitlines()
    assert first.startswith("error: out of memory with data.batch_size=512 and data.eval_batch_size=64; use smaller")
    assert second == f"  the traceback is in {tmp_path / 'train.log'}"
    assert explain(error) == "error: out of memory; use less data, as data.limit=1000, or smaller images"


LIMITED = """
import resource, runpy, sys
import torch, lightning.pytorch, torch.utils.tensorboard
torch.ones(512, 512) @ torch.ones(512, 512)  # OpenBLAS takes its own memory first
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 700_000_000, -1))
sys.argv = [{train!r}, *{words!r}]
runpy.run_path({train!r}, run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_a_run_that_really_is_out_of_memory_says_so_and_keeps_its_traceback(tmp_path, repo):
    words = ["model=mlp", "model.widths=[8000,8000]", "trainer.max_epochs=1", "hydra.run.dir=here"]
    script = LIMITED.format(train=str(repo / "train.py"), words=words)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first.startswith("error: out of memory with data.batch_size=")
    assert second == "  the traceback is in here/train.log"
    assert "can't allocate memory" in (tmp_path / "here" / "train.log").read_text()


def test_a_model_that_is_too_large_says_so(train):
    ran = train("model=mlp", "model.widths=[100000000000]", "hydra.run.dir=here")
    assert ran.code == 1
    assert ran.err.startswith("error: out of memory with data.batch_size=")


# disks and folders


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (
            errno.ENOSPC,
            "No space left on device: {file}\n  make room on the disk, then go on with python train.py resume={run}",
        ),
        (errno.EDQUOT, "Disk quota exceeded: {file}\n  make room on the disk, then go on with"),
        (errno.EROFS, "Read-only file system: {file}\n  make it writable, then go on with"),
        (errno.EACCES, "Permission denied: {file}\n  make it writable, then go on with"),
        (errno.EMFILE, "Too many open files: {file}\n  type ulimit -n 4096, then go on with"),
    ],
)
def test_what_the_system_refuses_names_the_file_and_what_to_do(number, text, tmp_path):
    (tmp_path / "config.yaml").touch()
    file = tmp_path / "metrics.csv"
    for name in str(file), os.fsencode(file):
        said = explain(OSError(number, os.strerror(number), name), tmp_path / "train.log")
        assert said.startswith("error: " + text.format(file=file, run=tmp_path))
        assert len(said.splitlines()) == 2


def test_a_refusal_elsewhere_points_to_data_dir(tmp_path):
    error = OSError(errno.ENOSPC, "No space left on device", "/cache/images.npy")
    first, second = "error: No space left on device: /cache/images.npy", "make room on the disk, or set data_dir="
    assert explain(error, tmp_path / "train.log").startswith(f"{first}\n  {second}")
    assert explain(error).endswith("then type the command again")


def test_a_full_disk_is_found_behind_what_torch_makes_of_it(tmp_path):
    error = RuntimeError("unexpected pos 64 vs 0")
    error.__context__ = OSError(errno.ENOSPC, "No space left on device")
    assert explain(error, tmp_path / "train.log").startswith(f"error: No space left on device: {tmp_path}\n")


@pytest.fixture
def small_disk(tmp_path):
    """A folder with room for a megabyte."""
    (tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path / "disk")]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a file system here")
    yield tmp_path / "disk"
    subprocess.run(["umount", "-l", str(tmp_path / "disk")], check=True)


@pytest.mark.parametrize("room", [0, 40, 1024])
def test_a_disk_that_is_full_ends_the_run_with_two_lines_and_no_torn_checkpoint(room, small_disk, train):
    (small_disk / "fill").write_bytes(bytes((1024 - room) * 1024))  # room is in KB
    ran = train("model=mlp", "data.limit=200", "trainer.max_epochs=2", "hydra.run.dir=disk/here")
    assert ran.code == 1
    assert ran.err.startswith("error: No space left on device: ")
    assert "make room on the disk, then " in ran.err and len(ran.err.splitlines()) == 2
    assert "Traceback" not in ran.out
    assert list(small_disk.glob("here/checkpoints/*")) == []


def test_a_file_larger_than_the_limit_ends_the_run_with_two_lines(tmp_path, repo):
    command = f"ulimit -f 100; exec {sys.executable} {repo / 'train.py'} model=mlp data.limit=200 hydra.run.dir=here"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("error: File too large: here\n")
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize("logger", ["logger=csv", "logger=[tensorboard,csv]"])
def test_a_run_whose_folder_is_removed_says_so(logger, train, tmp_path, monkeypatch):
    save = CSVLog.save

    def save_nothing(self):
        shutil.rmtree(tmp_path / "here", ignore_errors=True)
        save(self)

    monkeypatch.setattr(CSVLog, "save", save_nothing)
    ran = train(*TINY, logger)
    assert ran.code == 1
    assert "removed while the run went on\n  type the command again for a new run\n" in ran.err
    assert len(ran.err.splitlines()) == 2
    assert "Traceback" not in ran.out


# readers


def test_tensorboard_may_read_while_the_run_writes(train, tmp_path, monkeypatch):
    seen = []

    def reading(self):
        [file] = (tmp_path / "here").glob("events*")
        events = EventAccumulator(str(file)).Reload()
        seen.append(len(events.Tags()["scalars"]))
        return save(self)

    save = CSVLog.save
    monkeypatch.setattr(CSVLog, "save", reading)
    ran = train(*TINY, "logger=[tensorboard,csv]", "trainer.max_epochs=4")
    assert (ran.code, ran.err) == (0, "")
    assert len(seen) >= 4
    whole = EventAccumulator(str(tmp_path / "here")).Reload()
    assert [event.step for event in whole.Scalars("val/acc")] == [1, 3, 5, 7]
