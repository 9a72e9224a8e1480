"""A model of one's own, a vision transformer, in one file and one YAML: all that a shipped model can do."""

from textwrap import dedent

import pytest
from PIL import Image

from athanor.engine.runs.run import Run

CODE = """
import torch
from torch import nn

class VisionTransformer(nn.Module):
    def __init__(self, *, input_shape: tuple[int, int, int], num_classes: int, patch: int, width: int, depth: int):
        super().__init__()
        channels, height, rows = input_shape
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.places = nn.Parameter(0.02 * torch.randn(1, (height // patch) * (rows // patch), width))
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.1, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.places
        return self.head(self.blocks(tokens).mean(1))
"""
YAML = "_target_: vit.VisionTransformer\npatch: 4\nwidth: 8\ndepth: 1\n"


@pytest.fixture
def run_vit(tmp_path, monkeypatch, train, trusting):
    """Trains it on 400 digits, for two epochs of 5 steps."""
    (tmp_path / "vit.py").write_text(dedent(CODE))
    (tmp_path / "configs" / "model").mkdir(parents=True)
    (tmp_path / "configs" / "model" / "vit.yaml").write_text(YAML)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")  # for the processes of trainer=ddp
    trusting("vit")
    words = ["data.limit=400", "data.batch_size=64", "trainer.max_epochs=2", "optim=adamw", "trainer.precision=32-true"]
    return lambda *more: train("--config-dir", tmp_path / "configs", "model=vit", *words, *more)


def test_it_goes_on_to_the_bit_is_evaluated_and_predicts(run_vit, run_here, assert_resumed):
    assert_resumed(run_vit, places=[7])
    said = run_here("scripts/evaluate.py", "whole").out
    assert f"(recorded {Run('whole').results['test']['acc']!r})" in said
    Image.new("L", (8, 8), 100).save("a.png")
    assert run_here("scripts/predict.py", "whole", "a.png").code == 0
    assert run_here("scripts/export.py", "whole", "--format", "torch").code == 0


@pytest.mark.slow
def test_it_is_swept_and_combined(run_vit, run_here):
    ran = run_vit("-m", "model.width=8,16", "hydra.sweep.dir=sweep", "trainer.max_epochs=1")
    assert ran.code == 0 and "2 jobs; " in ran.out, ran.err
    ran = run_here("scripts/ensemble.py", "sweep")
    assert ran.code == 0, ran.err


@pytest.mark.slow
def test_it_goes_on_to_the_bit_from_anywhere(run_vit, assert_resumed):
    assert_resumed(run_vit)


@pytest.mark.slow
def test_it_is_trained_by_two_processes(run_vit):
    words = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    ran = run_vit(*words, "hydra.run.dir=two")
    assert (ran.code, Run("two").results["devices"]) == (0, 2), ran.err
    assert Run("two").results["train"]["loss"] < 2.31  # less than of guessing
