"""A person's own code, in the package or in a package of their own, is used by every command, on another machine too:
where no list says that a run was made there.
"""

import os
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from athanor import callbacks, models, optim, tasks, training
from athanor.engine.config import built_here
from athanor.engine.runs.run import Run

FILES = {
    "models": """
from torch import nn

class Mine(nn.Module):
    def __init__(self, *, input_shape, num_classes, hidden: int = 8):
        super().__init__()
        channels, height, width = input_shape
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, hidden), nn.ReLU())
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, x):
        return self.head(self.net(x))
""",
    "optim": """
def falling(t, by=0.5):
    return 1 - by * t
""",
    "tasks": """
from torchmetrics import MeanMetric
from athanor.tasks.losses import CrossEntropy

class Surprise(MeanMetric):
    def update(self, outputs, targets):
        super().update((outputs.argmax(1) != targets).float())

class Doubled(CrossEntropy):
    def forward(self, outputs, targets):
        return 2 * super().forward(outputs, targets)
""",
    "data": """
from dataclasses import dataclass
from athanor.data.augmentation.augment import Augment

@dataclass
class Brighter(Augment):
    by: int = 10

    def __bool__(self):
        return True

    def __call__(self, images, generator, total, start=0, mirrored=None):
        images = super().__call__(images, generator, total, start, mirrored)
        return (images.short() + self.by).clamp(max=255).byte()
""",
    "callbacks": """
import lightning.pytorch as L

class Counter(L.Callback):
    def __init__(self):
        self.results = {"counted": 0}

    def on_train_batch_end(self, *arguments):
        self.results["counted"] += 1
""",
    "training": """
from pathlib import Path
from athanor.training.loggers import CSVLog

class Second(CSVLog):
    def __init__(self, save_dir: str, purge_step: int | None = None) -> None:
        super().__init__(save_dir, purge_step)
        self.path = Path(save_dir) / "second.csv"
""",
}
NAMES = {
    "model": "models.mine.Mine",
    "scheduler": "optim.mine.falling",
    "loss": "tasks.mine.Doubled",
    "metrics.surprise": "tasks.mine.Surprise",
    "data.augment": "data.mine.Brighter",
    "callbacks.counter": "callbacks.mine.Counter",
    "logger.second": "training.mine.Second",
}


def words_of(package):
    """The command line that chooses all of them by their names, without a YAML file."""
    words = [
        f"{'' if key in ('model', 'scheduler', 'loss') else '++'}{key}._target_={package}.{name}"
        for key, name in NAMES.items()
    ]
    words += ["model=linear", "data.limit=200", "trainer.max_epochs=1"]
    return [*words, "callbacks.checkpoints.top_k=2"]


COMMANDS = {
    "evaluate": ("scripts/evaluate.py", "first"),
    "predict": ("scripts/predict.py", "first", "a.png"),
    "ensemble": ("scripts/ensemble.py", "first", "second", "--output", "made"),
    "evaluate an ensemble": ("scripts/evaluate.py", "made"),
    "resume": ("train.py", "resume=first", "trainer.max_epochs=2"),
    "run": ("train.py", "run=first"),
    "weights": ("train.py", "weights=first", "run=first"),
}


def write_code(folder):
    """Each of the files as <folder>/<room>/mine.py."""
    for room, text in FILES.items():
        (folder / room).mkdir(parents=True, exist_ok=True)
        (folder / room / "mine.py").write_text(text)


@pytest.fixture
def in_the_package(tmp_path, monkeypatch):
    """As files in the rooms of src/athanor."""
    import athanor.data

    write_code(tmp_path / "code")
    for room in models, optim, tasks, athanor.data, callbacks, training:
        monkeypatch.setattr(
            room, "__path__", [*room.__path__, str(tmp_path / "code" / room.__name__.partition(".")[2])]
        )
    return "athanor"


@pytest.fixture
def in_a_package_beside_it(tmp_path, monkeypatch, trusting):
    """In a folder of its own, which trust: names."""
    write_code(tmp_path / "code" / "ownpackage")
    monkeypatch.syspath_prepend(tmp_path / "code")
    trusting("ownpackage")
    return "ownpackage"


@pytest.mark.parametrize("where", ["in_the_package", "in_a_package_beside_it"])
def test_ones_own_code_is_used_by_every_command(where, request, train, run_here, monkeypatch, tmp_path):
    package = request.getfixturevalue(where)
    for seed, name in enumerate(["first", "second"]):
        ran = train(*words_of(package), f"seed={seed}", f"hydra.run.dir={name}")
        assert (ran.code, ran.err) == (0, "")
    config, results = Run("first").config, Run("first").results
    assert config["model"]["_target_"] == f"{package}.models.mine.Mine"
    assert results["counted"] > 0 and results["test"]["surprise"] == pytest.approx(1 - results["test"]["acc"])
    assert (tmp_path / "first" / "second.csv").is_file()
    Image.new("L", (8, 8)).save("a.png")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    monkeypatch.delenv(built_here.VARIABLE, raising=False)
    for verb, command in COMMANDS.items():
        ran = run_here(*command)
        assert (verb, ran.code, ran.err) == (verb, 0, "")


@pytest.mark.slow
def test_a_copy_of_the_project_elsewhere_uses_the_code_in_it(repo, tmp_path):
    """In the package of the copy and in a package beside train.py, by processes that no PYTHONPATH leads to the second;
    then in a copy of that copy, with the runs in it, on a machine that has no list of them.
    """

    def run(project, script, *words):
        environment = {**os.environ, "PYTHONPATH": str(project / "src"), "XDG_STATE_HOME": str(project / "state")}
        command = [sys.executable, str(project / script), *words]
        ran = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=300)
        assert ran.returncode == 0, ran.stderr

    project = tmp_path / "copy"
    for name in "configs", "scripts", "src":
        left_out = shutil.ignore_patterns("__pycache__", "*.egg-info", "local")
        shutil.copytree(repo / name, project / name, ignore=left_out)
    shutil.copy(repo / "train.py", project)
    write_code(project / "src" / "athanor")
    write_code(project / "ownpackage")
    (project / "configs" / "local").mkdir()
    (project / "configs" / "local" / "default.yaml").write_text("# @package _global_\ntrust: [ownpackage]\n")
    Image.new("L", (8, 8)).save(project / "a.png")
    mixed = [*words_of("athanor"), "model._target_=ownpackage.models.mine.Mine", "+model.hidden=9"]
    for seed, name in enumerate(["first", "second"]):
        run(project, "train.py", *mixed, f"seed={seed}", f"hydra.run.dir={name}")
    shutil.copytree(project, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("state"))
    for command in COMMANDS.values():
        run(tmp_path / "elsewhere", *command)
    assert Run(tmp_path / "elsewhere" / "first").results["epochs"] == 2
