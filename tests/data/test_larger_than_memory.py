"""Inputs in a memory-mapped file are read where they lie: what is copied of them stays small."""

import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from athanor.data.sources.source import Source
from athanor.engine.runs.lineage import image_hashes
from athanor.engine.runs.provenance import describe_data

linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux counts anonymous memory")
MB = 2**20


def anonymous() -> int:
    """Bytes of this process's memory that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024


@contextmanager
def watched():
    """Gives a list whose last item is the largest rise of anonymous memory so far, in bytes."""
    rises, start, done = [0], anonymous(), threading.Event()

    def watch():
        while not done.wait(0.005):
            rises.append(max(rises[-1], anonymous() - start))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield rises
    finally:
        done.set()
        thread.join()


def mapped(path, count, shape):
    """A sparse file, which takes no space on the disk, and of which only what is read comes into memory."""
    np.lib.format.open_memmap(path, "w+", np.uint8, (count, *shape)).flush()
    images = np.load(path, mmap_mode="r")
    labels = np.arange(count) % 10
    test = count - count // 50
    return Source(images[:test], labels[:test], images[test:], labels[test:], tuple("0123456789"), "mapped")


@linux
def test_what_reads_all_of_a_file_copies_little_of_it(tmp_path, make_data):
    source = mapped(tmp_path / "images.npy", 40_000, (3, 64, 64))  # 490 MB
    data = make_data(source=source, batch_size=64)
    with watched() as rises:
        image_hashes(source.train_inputs, data.train_index)
        describe_data(data, test=True)
        make_data(source=source, batch_size=64, augment=replace(data.augment, cutout=4))
        for number, _ in enumerate(data.train_dataloader()):
            if number == 50:
                break
    assert rises[-1] < 150 * MB


COUNTED = """
import runpy, sys, threading, time
def anonymous():
    line = next(line for line in open("/proc/self/status") if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024
most = 0
def watch():
    global most
    while True:
        most = max(most, anonymous())
        time.sleep(0.02)
threading.Thread(target=watch, daemon=True).start()
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    print("most", most, end.code)
"""


@linux
@pytest.mark.slow
def test_a_run_on_a_file_of_4_gigabytes_takes_little_more_memory_than_one_on_a_small_one(tmp_path, repo):
    (tmp_path / "counted.py").write_text(COUNTED)
    (tmp_path / "big.py").write_text(
        "import test_larger_than_memory as t\nfrom athanor.data.sources.source import Source\n"
        "def big(file: str, count: int) -> Source:\n    return t.mapped(file, count, (3, 64, 64))\n"
    )
    (tmp_path / "configs" / "data").mkdir(parents=True)
    yaml = "defaults: [base/default@_here_, _self_]\n_target_: big.big\nbatch_size: 256\nfile: ???\ncount: ???\n"
    (tmp_path / "configs" / "data" / "big.yaml").write_text(yaml)
    places = os.pathsep.join([str(tmp_path), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    most = []
    for count in 5_000, 4 * 10**9 // (3 * 64 * 64):
        words = ["--config-dir", tmp_path / "configs", "data=big", f"data.file={tmp_path}/images.npy", "model=linear"]
        words += [f"data.count={count}", "trainer=cpu", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/{count}"]
        ran = subprocess.run(
            [sys.executable, tmp_path / "counted.py", repo / "train.py", *map(str, words)],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": places}, capture_output=True, text=True,
        )  # fmt: skip
        name, number, code = ran.stdout.split()[-3:]
        assert (name, code) == ("most", "0"), ran.stderr
        most.append(int(number))
    assert most[1] - most[0] < 300 * MB
