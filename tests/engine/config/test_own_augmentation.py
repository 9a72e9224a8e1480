"""How an augmentation of one's own is chosen, which arguments it takes, and that its runs go on to the bit."""

import re

import pytest
import torch

from athanor.base.errors import UserError
from athanor.engine.app import command_line
from athanor.engine.config import built_here, trust
from athanor.engine.runs.run import Run, read_checkpoint

CODE = """
import torch
from torch import Tensor, nn

def noisy(images: Tensor, strength: float = 20, shift: int = 7) -> Tensor:
    return (images + strength * torch.rand(images.shape)).clamp(max=255).byte().roll(shift, 3)

def drawn(images, generator, by: int):
    return images + torch.randint(0, by, images.shape, generator=generator).byte()

class Brighter(nn.Module):
    def __init__(self, by: int):
        super().__init__()
        self.by = by

    def forward(self, image):
        return (image + self.by * torch.rand(())).byte()

def grey(path):
    open(path, "w")
"""
FILES = {
    "code/ownpixels.py": CODE,
    "configs/data/augment/mine.yaml": "_target_: ownpixels.noisy\nshift: 0\n",
    "configs/experiment/crop.yaml": """
# @package _global_
data: {augment: {crop: 1, shift: 2}}
""",
    "configs/experiment/chosen.yaml": """
# @package _global_
defaults: [override /data/augment: mine]
data: {augment: {strength: 3}}
""",
    "configs/experiment/named.yaml": """
# @package _global_
data: {augment: {_target_: ownpixels.Brighter, by: 40, per_image: true}}
""",
    "configs/experiment/unclear.yaml": """
# @package _global_
data: {augment: {_target_: ownpixels.noisy, shift: 3}}
""",
}
SHORT = ["model=linear", "data.limit=300", "trainer.max_epochs=2", "logger=csv", "eval.test=false"]


@pytest.fixture
def own(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text.lstrip())
    monkeypatch.syspath_prepend(tmp_path / "code")
    return ["--config-dir", "configs", *SHORT]


def augment_of(name):
    return Run(name).config["data"]["augment"]


TYPED = "data.augment._target_=ownpixels"
RUNS = {
    (f"{TYPED}.noisy",): {"_target_": "ownpixels.noisy"},
    (f"{TYPED}.noisy", "data.augment.shift=2"): {"_target_": "ownpixels.noisy", "shift": 2},
    (f"{TYPED}.drawn", "+data.augment.by=9"): {"_target_": "ownpixels.drawn", "by": 9},
    ("data/augment=mine", "+data.augment.strength=5"): {"_target_": "ownpixels.noisy", "shift": 0, "strength": 5},
    ("data.augment=mine", "data.augment.shift=4"): {"_target_": "ownpixels.noisy", "shift": 4},
    ("experiment=crop", "data/augment=mine"): {"_target_": "ownpixels.noisy", "shift": 2},
    ("experiment=chosen",): {"_target_": "ownpixels.noisy", "shift": 0, "strength": 3},
    ("experiment=named",): {"_target_": "ownpixels.Brighter", "by": 40, "per_image": True},
}


@pytest.mark.parametrize("words", RUNS, ids=" ".join)
def test_it_has_its_own_arguments_alone(words, own, compose, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = f"hydra.searchpath=[file://{tmp_path / 'configs'}]"
    assert command_line.composed([path, *words])["data"]["augment"] == RUNS[words]


def test_what_is_dropped_of_ours_is_said(own, train):
    words = [f"{TYPED}.Brighter", "+data.augment.by=3", "trainer.max_epochs=1"]
    ran = train(*own, "experiment=crop", *words, "hydra.run.dir=a")
    assert "data.augment is ownpixels.Brighter, without crop=1, shift=2 of ours" in ran.out
    assert augment_of("a") == {"_target_": "ownpixels.Brighter", "by": 3}


@pytest.mark.parametrize(
    "words, message",
    [
        (["experiment=unclear"], "data.augment.shift may be meant for ownpixels.noisy or for ours\n  put that target"),
        ([f"{TYPED}.noisy", "data.augment.crop=4"], "data.augment.crop: noisy has no 'crop'; choose from:"),
        (
            [f"{TYPED}.noisy", "+data.augment.strengt=4"],
            "data.augment.strengt: noisy has no 'strengt'; did you mean streng",
        ),
        ([f"{TYPED}.noisy", "+data.augment.strength=a"], "data.augment.strength=a: noisy takes float"),
        (
            [f"{TYPED}.drawn"],
            "data.augment: ownpixels.drawn cannot be called with images: missing a required argument: 'by'",
        ),
        ([f"{TYPED}.none"], "data.augment._target_=ownpixels.none cannot be imported"),
        (["+data.augment.per_image=true"], "data.augment.per_image is for an augmentation of your own"),
        (["data.augment=null"], "data/augment=null: choose one\n  data/augment: "),
        (["data.mixup=0.2", "loss=hinge"], "data.mixup makes probabilities of classes; use loss=cross_entropy"),
        (["data.cutmix=1", "task=regression"], "data.cutmix makes probabilities of classes, which the task Regression"),
        (
            ["data.cutmix=1", "model=mlp", "optim=lbfgs", "data.batch_size=full"],
            "optim=lbfgs minimises one function; type",
        ),
        (["optim=lbfgs", "data.batch_size=full", f"{TYPED}.noisy"], "optim=lbfgs minimises one function, and augment"),
        (["data.mixup=-1"], "data.mixup=-1 is negative; use 0 to switch it off"),
        (
            ["data.augment.resized_crop=[0.5,2]"],
            "data.augment.resized_crop=[0.5, 2]: use [least, most], above 0, up to 1",
        ),
        (["data.augment.hue=0.1"], "data.augment.saturation and hue change nothing in grey pictures"),
        (
            ["data.preprocess=imagenet"],
            "data.preprocess=imagenet takes pictures in colour, and this data has [1, 8, 8]",
        ),
    ],
)
def test_what_is_wrong_is_said_in_a_line_or_two(words, message, own, train):
    ran = train(*own, *words, "hydra.run.dir=a")
    assert ran.code == 1
    assert ran.err.startswith(f"error: {message}")
    assert len(ran.err.splitlines()) <= 2


OURS = [
    "brightness=0.4",
    "contrast=0.4",
    "randaugment=2",
    "resized_crop=[0.5,1]",
    "crop=1",
    "flip=alternating",
    "shift=1",
]
ALL = {
    "ours": [*(f"data.augment.{word}" for word in OURS), "data.mixup=0.4", "data.cutmix=1"],
    "torchvision": ["data/augment=torchvision", "data.mixup=0.4"],
    "a module per image": [f"{TYPED}.Brighter", "+data.augment.by=50", "+data.augment.per_image=true"],
}


def weights(run):
    return read_checkpoint(Run(run).dir / "checkpoints" / "last.ckpt")["state_dict"]


@pytest.mark.parametrize("words", ALL.values(), ids=ALL)
def test_a_run_that_is_stopped_in_mid_epoch_goes_on_to_the_bit(words, own, train, interrupted):
    assert train(*own, *words, "hydra.run.dir=whole").code == 0
    with interrupted(6):
        assert train(*own, *words, "hydra.run.dir=parts").code != 0
    ran = train("resume=parts")
    assert (ran.code, ran.err) == (0, "")
    whole, parts = weights("whole"), weights("parts")
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    assert augment_of("parts") == augment_of("whole")
    again = train("run=whole", "hydra.run.dir=again")
    assert (again.code, again.err) == (0, "")
    assert all(torch.equal(value, weights("again")[name]) for name, value in whole.items())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ours", "torchvision"])
def test_two_processes_train_as_one(kind, own, train):
    words = [*own, *ALL[kind], "trainer.precision=64-true", "trainer.accelerator=cpu"]
    assert train(*words, "hydra.run.dir=one").code == 0
    assert train(*words, "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "hydra.run.dir=two").code == 0
    one, two = weights("one"), weights("two")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-9, atol=1e-9)


def test_mixed_targets_have_an_accuracy_and_a_loss_in_training(own, train):
    assert train(*own, "data.mixup=1", "data.cutmix=1", "loss.class_weights=balanced", "hydra.run.dir=a").code == 0
    results = Run("a").results
    assert 0 < results["train"]["acc"] < 1 and results["train"]["loss"] > 0
    assert results["val"]["acc"] > 0.2


def test_a_run_from_elsewhere_builds_only_what_is_shipped_or_trusted(own, train, monkeypatch, tmp_path, trusting):
    own.append("trainer.max_epochs=1")
    assert train(*own, f"{TYPED}.noisy", "hydra.run.dir=a").code == 0
    assert train(*own, "data/augment=torchvision", "hydra.run.dir=b").code == 0
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    monkeypatch.delenv(built_here.VARIABLE, raising=False)
    assert "data.augment._target_=ownpixels.noisy is defined in ownpixels, and a loaded" in train("run=a").err
    assert train("run=b", "hydra.run.dir=c").code == 0
    trusting("ownpixels")
    assert train("run=a", "hydra.run.dir=d").code == 0
    for target, message in {"ownpixels.grey": "is not an augmentation", "ownpixels.drawn": None}.items():
        config = {"data": {"augment": {"_target_": target}}}
        if message:
            with pytest.raises(UserError, match=message):
                trust.check_targets(config)
        else:
            trust.check_targets(config)
    for target in "torchvision.transforms.v2.Lambda", "torchvision.io.write_file", "athanor.data.sources.digits.digits":
        nested = {"_target_": "torchvision.transforms.v2.Compose", "transforms": [{"_target_": target}]}
        with pytest.raises(UserError, match=re.escape(f"data.augment.transforms.0._target_={target} is")):
            trust.check_targets({"data": {"augment": nested}})
