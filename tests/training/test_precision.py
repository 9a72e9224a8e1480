import json

import pytest
import torch
from torch import nn

from athanor.training import precision

CONVOLUTION, LINEAR = nn.Sequential(nn.Conv2d(1, 2, 3)), nn.Sequential(nn.Linear(2, 2))


@pytest.fixture
def matmul_precision():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("hardware", "network", "expected"),
    [(True, CONVOLUTION, "bf16-mixed"), (True, LINEAR, "32-true"), (False, CONVOLUTION, "32-true")],
)
def test_a_processor_takes_bfloat16_for_convolutions_where_it_has_it(hardware, network, expected, monkeypatch, caplog):
    monkeypatch.setattr(precision, "cpu_multiplies_bfloat16", lambda: hardware)
    caplog.set_level("INFO")
    assert precision.automatic("cpu", network) == expected
    assert f"trainer.precision=auto is {expected}: " in caplog.text


@pytest.mark.parametrize(("hardware", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_a_gpu_takes_bfloat16_where_it_has_it(hardware, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: hardware)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "this GPU")
    assert precision.automatic("cuda", LINEAR) == expected
    assert precision.automatic("mps", LINEAR) == "32-true"


@pytest.mark.parametrize(
    ("asked", "device", "machine", "amx", "expected"),
    [
        ("auto", "cuda", "x86_64", False, "high"),
        ("auto", "cpu", "x86_64", False, "medium"),
        ("auto", "cpu", "x86_64", True, "high"),
        ("auto", "cpu", "arm64", False, "high"),
        ("highest", "cpu", "x86_64", False, "highest"),
    ],
)
def test_matmul_precision(asked, device, machine, amx, expected, monkeypatch, matmul_precision):
    monkeypatch.setattr(precision.platform, "machine", lambda: machine)
    monkeypatch.setattr(precision, "cpu_has_amx", lambda: amx)
    precision.set_matmul_precision(asked, device)
    assert torch.get_float32_matmul_precision() == expected


def test_auto_keeps_the_accuracy_of_float32_on_this_processor(matmul_precision):
    a, b = torch.randn(128, 784), torch.randn(784, 64)
    precision.set_matmul_precision("auto", "cpu")
    exact = a.double() @ b.double()
    assert ((a @ b - exact).abs().max() / exact.abs().max()).item() < 2e-6


def test_the_results_name_the_precision_that_was_chosen(run_here, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "cpu_multiplies_bfloat16", lambda: True)
    words = "trainer=cpu trainer.precision=auto data.limit=200 trainer.max_epochs=1 logger=null"
    ran = run_here("train.py", "model=cnn", *words.split())
    assert ran.code == 0
    (results,) = tmp_path.glob("outputs/*/*/results.json")
    assert json.loads(results.read_text())["precision"] == "bf16-mixed"
    assert "trainer.precision=auto is bf16-mixed" in ran.out + ran.err


def test_threads_are_set_for_one_job_of_a_sweep_and_not_for_the_next(run_here, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    words = "trainer=cpu data.limit=200 trainer.max_epochs=1 logger=null model=linear"
    assert run_here("train.py", "-m", "compute.threads=2,null", *words.split()).code == 0
    assert asked == [2, 1]  # the tests run with one
