"""Three projects of strangers, each the files of one folder here, which are added to the project or lie beside it.

Each is trained, killed and resumed, evaluated, swept and used for predictions, by the commands that a person would
type, and no file of the project is edited.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

from athanor.engine.runs.run import Run

HERE = Path(__file__).parent
MOST_LINES = 60
# in the process that is killed, before the seventh last.ckpt gets its name, within the second epoch
KILL = """
import os, signal, sys

def watch(event, arguments, written=[]):
    if event == "os.rename" and os.fsdecode(arguments[1]).endswith("last.ckpt"):
        written.append(arguments)
        if len(written) == 7:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
"""


def photographs(root, classes, count):
    """Noise whose brightness is its class, in two sizes."""
    noise = np.random.default_rng(0)
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = noise.integers(80 * label, 80 * label + 90, (50 + 10 * (i % 2), 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.jpg")


def flowers(folder):
    photographs(folder / "flowers" / "train", ("aster", "lily"), 20)
    photographs(folder / "flowers" / "val", ("aster", "lily"), 5)


def sites(folder):
    noise = np.random.default_rng(0)
    (folder / "measurements").mkdir()
    for site in range(6):
        measured = noise.normal(size=(25, 7)).astype("float32")
        np.savez(folder / "measurements" / f"{site}.npz", measured=measured, is_polluted=measured.sum(1) > 0)
    np.save(folder / "new.npy", noise.normal(size=(3, 7)).astype("float32"))


def leaves(folder):
    photographs(folder / "leaves", ("birch", "oak", "yew"), 16)
    torch.save(models.get_model("shufflenet_v2_x0_5", weights=None).state_dict(), folder / "backbone.pt")


@pytest.fixture
def project(repo, tmp_path):
    """A copy of the project."""
    for name in "configs", "scripts", "src":
        left_out = shutil.ignore_patterns("__pycache__", "*.egg-info", "local")
        shutil.copytree(repo / name, tmp_path / "project" / name, ignore=left_out)
    shutil.copy(repo / "train.py", tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture
def typed(project, tmp_path):
    """Runs `python <words>` in the folder where a person works, as they would; gives what it printed."""

    def typed(folder, *words, killed=False):
        paths = [project / "src", folder, *([tmp_path / "killer"] if killed else [])]
        places = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "ATHANOR_DATA": str(tmp_path / "data")}
        places["XDG_STATE_HOME"] = str(tmp_path / "state")
        command = [sys.executable, project / words[0], *words[1:]]
        ran = subprocess.run(command, cwd=folder, env=os.environ | places, capture_output=True, text=True, timeout=300)
        assert ran.returncode == (-signal.SIGKILL if killed else 0), ran.stderr
        return ran.stdout

    (tmp_path / "killer").mkdir()
    (tmp_path / "killer" / "sitecustomize.py").write_text(KILL)
    return typed


PROJECTS = {
    # name: what makes its data, whether its files are added to the project, words of training, what is predicted
    "vit": (flowers, True, ["experiment=flowers"], "flowers/val", 10),
    "wells": (sites, False, ["-cd", "configs", "data=wells", "data.root=measurements", "model=gated"], "new.npy", 3),
    "backbone": (leaves, True, ["experiment=leaves"], "leaves/oak", 16),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROJECTS)
def test_it_is_trained_killed_resumed_evaluated_swept_and_predicts(
    name, project, typed, assert_same, tmp_path, monkeypatch
):
    make_data, is_added, words, new, count = PROJECTS[name]
    files = [path for path in (HERE / name).rglob("*") if path.is_file() and path.suffix in (".py", ".yaml")]
    assert sum(len(path.read_text().splitlines()) for path in files) <= MOST_LINES
    folder = project if is_added else tmp_path / "own"
    assert not any((folder / path.relative_to(HERE / name)).exists() for path in files)  # nothing is edited
    shutil.copytree(HERE / name, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    make_data(folder)
    words = ["train.py", *words, "trainer.max_epochs=2", "callbacks.checkpoints.every_minutes=1e-9"]
    typed(folder, *words, "hydra.run.dir=whole")
    typed(folder, *words, "hydra.run.dir=parts", killed=True)
    typed(folder, "train.py", "resume=parts")
    monkeypatch.chdir(folder)
    assert_same("whole", "parts")
    assert f"(recorded {Run('whole').results['test']['acc']!r})" in typed(folder, "scripts/evaluate.py", "whole")
    typed(folder, "scripts/predict.py", "whole", new, "--csv", "predictions.csv")
    assert len(Path("predictions.csv").read_text().splitlines()) == 1 + count
    assert "2 jobs; " in typed(folder, *words, "-m", "seed=0,1", "hydra.sweep.dir=sweep")
