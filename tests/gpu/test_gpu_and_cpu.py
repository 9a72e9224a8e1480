"""A run from a machine with a GPU is used on one without, and the other way; what needs processes of its own."""

import re
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image

from athanor.engine.runs.run import Run, read_checkpoint

pytestmark = pytest.mark.gpu

SHORT = ["model=mlp", "data.batch_size=64", "trainer.max_epochs=5"]
PARTS = ["callbacks=[lr_range,ema,ensemble]", "callbacks.lr_range.sweeps=1", "scheduler=cosine"]
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}  # as on a machine that has none


@pytest.fixture(scope="module")
def runs(tmp_path_factory, run_process):
    """The folder with the runs `from_gpu` and `from_cpu`, of the same settings."""
    cwd = tmp_path_factory.mktemp("runs")
    for name, trainer, environment in ("from_gpu", "gpu", {}), ("from_cpu", "cpu", NO_GPU):
        words = [*SHORT, *PARTS, f"trainer={trainer}", f"hydra.run.dir={name}"]
        ran = run_process(cwd, "train.py", *words, **environment)
        assert ran.code == 0, ran.err
    Image.new("L", (8, 8), 100).save(cwd / "a.png")
    return cwd


def values(out):
    """Of evaluate.py: each metric and its value, and the recorded one."""
    pairs = re.findall(r"test/(\w+)  (\S+)(?:  \(recorded (\S+)\))?", out)
    return {name: (float(value), float(recorded)) for name, value, recorded in pairs if recorded}


def test_range_test_average_and_ensemble_are_in_both_runs(runs):
    gpu, cpu = Run(runs / "from_gpu").results, Run(runs / "from_cpu").results
    assert (gpu["device"], cpu["device"]) == ("cuda:0", "cpu")
    assert gpu.keys() == cpu.keys()
    for results in gpu, cpu:
        assert results["test"]["acc"] > 0.8


@pytest.mark.parametrize(
    ("name", "words", "environment"),
    [
        ("from_gpu", [], {}),
        ("from_gpu", ["trainer=cpu"], NO_GPU),
        ("from_cpu", ["trainer=gpu"], {}),
    ],
)
def test_the_recorded_accuracy_is_found_again_on_the_other_device(name, words, environment, runs, run_process):
    ran = run_process(runs, "scripts/evaluate.py", name, *words, **environment)
    assert ran.code == 0, ran.err
    found = values(ran.out)
    assert {"loss", "acc"} <= found.keys()
    for metric, (value, recorded) in found.items():
        # TensorFloat-32 has 10 bits; one of 359 images may change sides
        assert value == pytest.approx(recorded, abs=0.003 if metric == "acc" else 0.01)


def test_without_a_gpu_a_run_that_wants_one_says_what_to_type(runs, run_process):
    ran = run_process(runs, "scripts/evaluate.py", "from_gpu", **NO_GPU)
    assert ran.code == 1
    assert ran.err == "error: trainer.accelerator=gpu: torch finds none on this machine; type trainer=auto\n"


@pytest.mark.parametrize("name", ["from_gpu", "from_cpu"])
def test_a_picture_is_classified_alike_with_and_without_a_gpu(name, runs, run_process):
    answers = []
    for environment in {}, NO_GPU:
        ran = run_process(runs, "scripts/predict.py", name, "a.png", **environment)
        assert ran.code == 0, ran.err
        answers.append(ran.out)
    assert answers[0] == answers[1]


@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_a_run_of_a_gpu_is_exported_without_one(form, runs, run_process):
    if form == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    ran = run_process(runs, "scripts/export.py", "from_gpu", "--format", form, **NO_GPU)
    assert ran.code == 0, ran.err
    assert "logits within" in ran.out


def test_an_ensemble_of_both_is_made_on_either_machine(runs, run_process):
    for folder, environment in ("with_gpu", {}), ("without_gpu", NO_GPU):
        words = ["from_gpu", "from_cpu", "--output", folder]
        ran = run_process(runs, "scripts/ensemble.py", *words, **environment)
        assert ran.code == 0, ran.err
    on_gpu, on_cpu = (Run(runs / folder).results["test"]["acc"] for folder in ("with_gpu", "without_gpu"))
    assert on_gpu == pytest.approx(on_cpu, abs=0.003)


def test_weights_of_a_gpu_are_trained_further_without_one(runs, run_process):
    words = [*SHORT, "trainer=cpu", "trainer.max_epochs=1", "weights=from_gpu", "hydra.run.dir=further"]
    ran = run_process(runs, "train.py", *words, **NO_GPU)
    assert ran.code == 0, ran.err
    assert Run(runs / "further").results["val"]["acc"] > 0.8


# processes of their own


@pytest.mark.skipif("torch.cuda.device_count() < 2", reason="needs two GPUs")
def test_two_gpus_train_as_one_does(run_process, tmp_path):
    words = ["model=mlp", "model.norm=none", "optim=momentum", "trainer.max_epochs=2", "data.batch_size=64"]
    for name, devices in ("one", ["trainer=gpu"]), ("two", ["trainer=ddp", "trainer.devices=2"]):
        ran = run_process(tmp_path, "train.py", *words, *devices, f"hydra.run.dir={name}")
        assert ran.code == 0, ran.err
    one, two = Run(tmp_path / "one"), Run(tmp_path / "two")
    assert (one.results["devices"], two.results["devices"]) == (1, 2)
    assert one.results["steps"] == two.results["steps"]
    a, b = (read_checkpoint(run.dir / "checkpoints" / "last.ckpt")["state_dict"] for run in (one, two))
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, rtol=0, atol=1e-3)
    for stage in "val", "test":
        assert two.results[stage]["loss"] == pytest.approx(one.results[stage]["loss"], abs=1e-3)


@pytest.mark.skipif("torch.cuda.device_count() < 2", reason="needs two GPUs")
def test_a_run_on_two_gpus_resumes_on_two(run_process, tmp_path):
    words = [*SHORT, "trainer=ddp", "trainer.devices=2", "trainer.deterministic=true", "data.augment.crop=1"]
    assert run_process(tmp_path, "train.py", *words, "hydra.run.dir=whole").code == 0
    assert run_process(tmp_path, "train.py", *words, "trainer.max_epochs=2", "hydra.run.dir=parts").code == 0
    ran = run_process(tmp_path, "train.py", "resume=parts", "trainer.max_epochs=5")
    assert ran.code == 0, ran.err
    a, b = (read_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt")["state_dict"] for name in ("whole", "parts"))
    assert all(torch.equal(value, b[name]) for name, value in a.items())


def test_a_process_on_a_gpu_that_is_killed_goes_on(run_process, repo, tmp_path):
    """With SIGKILL, as scripts/torture.py does it: the driver takes the memory back."""
    words = ["model=mlp", "trainer=gpu", "trainer.max_epochs=400", "callbacks.early_stopping=null"]
    command = [sys.executable, str(repo / "train.py"), *words, "hydra.run.dir=run"]
    with open(tmp_path / "out", "w") as out:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=out, stderr=out)
    last, end = tmp_path / "run" / "checkpoints" / "last.ckpt", time.monotonic() + 120
    while not last.is_file() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    process.kill()
    process.wait()
    assert last.is_file(), (tmp_path / "out").read_text()
    before = read_checkpoint(last)["epoch"]
    ran = run_process(tmp_path, "train.py", "resume=run", f"trainer.max_epochs={before + 3}")
    assert ran.code == 0, ran.err
    assert Run(tmp_path / "run").results["epochs"] == before + 3
