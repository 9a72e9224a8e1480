"""scripts/benchmark.py on a GPU, with generated images."""

import json
import os
import time

import pytest
import torch

pytestmark = pytest.mark.gpu


def test_the_benchmark_measures_on_the_gpu_and_reports_its_memory(run_process, tmp_path):
    options = ["--device", "gpu", "--repeats", 1, "--epochs", 1, "--images", 2000, "--workers", 0, "--json", "r.json"]
    ran = run_process(tmp_path, "scripts/benchmark.py", "mlp", *options, ATHANOR_DATA=str(tmp_path / "empty"))
    assert (ran.code, ran.err) == (0, "")
    results = json.loads((tmp_path / "r.json").read_text())
    assert results["machine"]["gpu"] == torch.cuda.get_device_name()
    assert results["machine"]["cuda"] == torch.version.cuda
    for contender in results["cases"]["mlp"]["contenders"].values():
        [record] = contender["rounds"]
        assert record["device"].startswith("cuda")
        assert 1 < record["gpu_peak_mb"] < 10_000
        assert record["val_acc"] > 0.5


def test_all_of_the_benchmark_ends_in_time_and_writes_what_it_has(run_process, tmp_path):
    started = time.monotonic()
    options = ["all", "--device", "gpu", "--minutes", 1.5, "--workers", min(4, os.cpu_count()), "--json", "r.json"]
    ran = run_process(tmp_path, "scripts/benchmark.py", *options, ATHANOR_DATA=str(tmp_path / "empty"))
    assert time.monotonic() - started < 110
    results = json.loads((tmp_path / "r.json").read_text())
    assert results["cases"]["mlp"]["ratios"]["conventional / athanor"]["epoch_s"]["median"] > 0
    assert "| `mlp`: MNIST" in ran.out
    late = {"no time was left for it; use more --minutes"}
    assert set(results["failures"].values()) <= late
