"""Adding a model, a data set and an optimizer takes new files only: none of the project's is edited."""

import os

import pytest

from athanor.engine.runs.run import Run

FILES = {
    "code/mine_model.py": """
from torch import nn

class Mine(nn.Module):
    def __init__(self, *, input_shape, num_classes, hidden: int):
        super().__init__()
        channels, height, width = input_shape
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, hidden), nn.ReLU())
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, x):
        return self.head(self.net(x))
""",
    "code/mine_data.py": """
import torch
from athanor.data.sources.source import Source

def stripes(count: int) -> Source:
    \"\"\"Images with horizontal or vertical stripes.\"\"\"
    labels = torch.arange(count) % 2
    images = torch.randint(0, 60, (count, 1, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images[labels == 0, :, ::2] += 150
    images[labels == 1, :, :, ::2] += 150
    half = count // 2
    return Source(images[:half], labels[:half], images[half:], labels[half:], ("lying", "standing"), "stripes")
""",
    "configs/model/mine.yaml": "_target_: mine_model.Mine\nhidden: 16\n",
    "configs/data/mine.yaml": """
defaults: [base/default@_here_, _self_]
_target_: mine_data.stripes
batch_size: 32
count: 400
""",
    "configs/optim/mine.yaml": "_target_: torch.optim.RAdam\n_partial_: true\nlr: 0.01\nweight_decay: 0.0\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("extend")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text.lstrip())
    return folder


def test_a_new_model_data_set_and_optimizer_need_no_edit(folder, run_process):
    words = ["model=mine", "data=mine", "optim=mine", "trainer.max_epochs=5", "hydra.run.dir=run"]
    path = os.pathsep.join([str(folder / "code"), os.environ.get("PYTHONPATH", "")])
    ran = run_process(folder, "train.py", "--config-dir", "configs", *words, PYTHONPATH=path)
    assert (ran.code, ran.err) == (0, "")
    run = Run(folder / "run")
    assert run.results["test"]["acc"] > 0.95
    assert run.config["name"] == "mine_mine"
    assert run.config["optim"]["_target_"] == "torch.optim.RAdam"
    assert run.results["parameters"] == 36 * 16 + 16 + 16 * 2 + 2


def test_the_keys_of_new_parts_are_checked_like_our_own(folder, train, monkeypatch):
    monkeypatch.syspath_prepend(str(folder / "code"))
    words = ["--config-dir", folder / "configs", "data=mine", "model=mine"]
    assert "model.hiden: Mine has no 'hiden'; did you mean hidden?" in train(*words, "+model.hiden=3").err
    assert "model.hidden=wide: Mine takes int" in train(*words, "model.hidden=wide").err
    assert "data.count=many: stripes takes int" in train(*words, "data.count=many").err


def test_unknown_options_list_the_new_ones_too(folder, train):
    ran = train("--config-dir", folder / "configs", "model=mien")
    assert "model=mien does not exist; did you mean mine?" in ran.err
    assert "model: cnn, linear, mine, mlp, resnet, speednet, torchvision" in ran.err
