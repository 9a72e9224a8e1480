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
from PIL import Image
from torchvision import models
import torch

HERE = Path(__file__).parent
MOST_LINES = 60
# in the process that is killed, before last.ckpt of the fifth step gets its name
KILL = """
import os, signal, sys

def watch(event, arguments, written=[]):
    if event == "os.rename" and os.fsdecode(arguments[1]).endswith("last.ckpt"):
        written.append(arguments)
        if len(written) == 5:
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
