"""Every option of every group in configs/, found by glob: a new YAML file is tested the moment it exists."""

import importlib.util
import inspect
import re
import struct
import sys
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image

from athanor.base.errors import UserError
from athanor.data.sources import cifar10, mnist
from athanor.data.sources.source import Source
from athanor.engine.config import assemble, check, hydra_versions, options
from athanor.engine.config.settle import settle
from athanor.engine.runs.run import Run

CONFIGS = Path(__file__).parents[3] / "configs"
FILES = sorted(path for path in CONFIGS.glob("*/**/*.yaml") if path.relative_to(CONFIGS).parts[0] != "hydra")
SHARED = [
    CONFIGS / group / "base" / "default.yaml" for group in ("data", "init", "optim", "scheduler", "experiment", "study")
]
SHARED.append(CONFIGS / "data" / "base" / "datasets.yaml")
SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]
MODELS = sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml"))
HAS_TIMM = importlib.util.find_spec("timm") is not None
if not HAS_TIMM:  # tests/models/test_timm.py has what is said then
    MODELS.remove("timm")
SMALL = {  # the defaults have 11 million parameters, and three halvings, which 8x8 images are too small for
    "torchvision": ["model.name=shufflenet_v2_x0_5"],
    "timm": ["model.name=test_resnet"],
    "speednet": ["model.widths=[32,64]"],
}
OF_TASKS = {  # options that do not fit task=classification, or model=cnn
    "data=table": ["model=mlp"],
    **{f"loss={loss}": ["task=regression"] for loss in ("mse", "mae", "huber")},
    **{f"loss={loss}": ["task=attributes"] for loss in ("logistic", "one_vs_all_hinge")},
    "loss=info_nce": ["task=contrastive"],
    "metrics=average_precision": ["task=attributes", "metrics=[average_precision]"],
}
# checkpoints, early stopping and schedulers that go by epochs get two epochs of one step each
TWO_STEPS = ["trainer.max_epochs=2", "+trainer.limit_train_batches=1", "trainer.log_every_n_steps=1"]
TWO_STEPS += ["trainer.check_val_every_n_epoch=1"]

every_model = pytest.mark.parametrize("model", MODELS)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))


def choice(path: Path) -> str:
    """What a person types for a file: configs/data/preprocess/zca.yaml is data/preprocess=zca."""
    group = path.parent.relative_to(CONFIGS).as_posix()
    return f"{'callbacks/base@callbacks' if group == 'callbacks/base' else group}={path.stem}"


OPTIONS = [choice(path) for path in FILES if path not in SHARED]
every_option = pytest.mark.parametrize("option", OPTIONS)


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """A data_dir with a few images of each data set, in the format of the real files."""
    rng = np.random.default_rng(0)
    counts = {"train": 100, "t10k": 30}
    monkeypatch.setattr(mnist, "COUNTS", counts)
    monkeypatch.setattr(cifar10, "COUNTS", tuple(counts.values()))
    for name in "MNIST", "FashionMNIST", "KMNIST":
        raw = tmp_path / name / "raw"
        raw.mkdir(parents=True)
        for split, n in counts.items():
            write_idx(raw / f"{split}-images-idx3-ubyte", rng.integers(0, 256, (n, 28, 28), np.uint8))
            write_idx(raw / f"{split}-labels-idx1-ubyte", (np.arange(n) % 10).astype(np.uint8))
    write_images(tmp_path / "cifar10", rng, cifar10.CLASSES, {"train": 10, "test": 3}, (32, 32))
    write_images(tmp_path / "pictures", rng, ("cat", "dog"), {"train": 20, "test": 3}, (40, 50))
    paths = sorted((tmp_path / "pictures").rglob("*.png"))
    rows = [f"{path.relative_to(tmp_path / 'pictures')},{i},{path.parent.name}" for i, path in enumerate(paths)]
    (tmp_path / "table.csv").write_text("\n".join(["file,number,label", *rows]))
    return tmp_path


def write_idx(path, array):
    path.write_bytes(struct.pack(f">{array.ndim + 1}I", 0x800 + array.ndim, *array.shape) + array.tobytes())


def write_images(root, rng, classes, counts, size):
    for split, count in counts.items():
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(root / split / name / f"{i}.png")


@pytest.fixture
def digits_of_shape(monkeypatch):
    """Replace data=digits by random images of another shape."""

    def replace(shape):
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (60, *shape), generator=generator, dtype=torch.uint8)
        labels = torch.arange(60) % 10
        names = tuple("abcdefghij")
        source = Source(images[:40], labels[:40], images[40:], labels[40:], names, "random")
        monkeypatch.setattr("athanor.data.sources.digits.digits", lambda: source)

    return replace


def words_for(option, data_dir):
    """What has to be typed besides an option to try it on the small files."""
    group, _, name = option.partition("=")
    words = [option, f"data_dir={data_dir}", *TWO_STEPS, *OF_TASKS.get(option, [])]
    if group in ("data", "experiment", "study"):  # the small files hold less than a batch
        words.append("data.batch_size=16")
    if group == "data":
        settings = yaml.safe_load((CONFIGS / "data" / f"{name}.yaml").read_text())
        needed = {"root": data_dir / "pictures", "labels": data_dir / "table.csv", "file": data_dir / "table.csv"}
        needed |= {"target_columns": "label"}
        words += [f"data.{key}={needed[key]}" for key, value in settings.items() if value == "???"]
        small = {"image_size": "16", "target_columns": "[label]", "leave_out": "[file]"}
        words += [f"data.{key}={value}" for key, value in small.items() if settings.get(key, "???") != "???"]
    if group == "scheduler/momentum":  # Adam cannot follow one
        words.append("optim=momentum")
    if "task=contrastive" in words:
        words.append("data.augment.shift=1")
    if option == "data/preprocess=imagenet":  # which takes colours
        words += ["data=cifar10", "data.batch_size=16"]
    return words + (SMALL.get(name, []) if group == "model" else [])


def fit(config, directory):
    directory.mkdir(exist_ok=True)
    data = assemble.data(config)
    classifier = assemble.task(config, data)
    trainer = assemble.trainer(config, str(directory), data, classifier)
    trainer.fit(classifier, data)
    return trainer, classifier, data


@every_option
def test_every_option_composes_and_its_keys_fit_its_target(option, compose, tmp_path):
    try:
        config = check.plain(compose(*words_for(option, tmp_path)))
        with hydra.initialize_config_dir(str(CONFIGS), **hydra_versions.COMPOSE):  # options are composed alone
            settle(config, [option])
        check.check(config)
    except UserError as error:
        if option.startswith("logger=") and "No module named" in str(error):
            pytest.skip(str(error))
        raise
    assert not [text for text in leaves(config) if isinstance(text, str) and ("${" in text or "???" in text)]


@every_option
def test_every_option_trains_two_steps(option, compose, data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = check.plain(compose(*words_for(option, data_dir)))
    with hydra.initialize_config_dir(str(CONFIGS), **hydra_versions.COMPOSE):  # options are composed alone
        settle(config, [option])
    accelerator = config["trainer"]["accelerator"]
    if accelerator == "gpu" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    if accelerator == "mps" and not torch.backends.mps.is_available():
        pytest.skip("needs Apple silicon")
    if option == "model=timm" and not HAS_TIMM:
        pytest.skip("timm is not installed")
    if option == "trainer=ddp":
        pytest.skip("needs several processes, see test_ddp.py")
    try:
        trainer, classifier, data = fit(config, tmp_path / "run")
    except ModuleNotFoundError as error:
        if not option.startswith("logger="):
            raise
        pytest.skip(str(error))
    except UserError as error:  # the tests of a data set have small files of its form
        if not option.startswith("data=") or not re.search("could not be downloaded|pip install", str(error)):
            raise
        pytest.skip(str(error))
    assert trainer.global_step == (1 if trainer.fast_dev_run else 2)
    stages = ("train", "val") if len(data.val_index) else ("train",)
    measures = type(classifier).measures
    assert {f"{stage}/{name}" for stage in stages for name in measures} <= trainer.callback_metrics.keys()
    trainer.test(classifier, data, verbose=False)
    assert {f"test/{name}" for name in measures} <= trainer.callback_metrics.keys()


@every_model
@every_shape
def test_every_model_trains_on_every_shape_of_image(model, shape, compose, digits_of_shape, tmp_path):
    digits_of_shape(shape)
    words = [f"model={model}", *SMALL.get(model, []), "data.batch_size=16", "callbacks=null", "logger=null"]
    config = check.plain(compose(*words, "trainer.max_steps=1", "trainer.log_every_n_steps=1"))
    data = assemble.data(config)
    classifier = assemble.task(config, data)
    before = {name: p.clone() for name, p in classifier.named_parameters()}
    trainer = assemble.trainer(config, str(tmp_path), data, classifier)
    trainer.fit(classifier, data)
    assert classifier(data.source.test_inputs).shape == (20, 10)
    assert any(not torch.equal(p, before[name]) for name, p in classifier.named_parameters())


OVERFITTED = [[f"model={model}", *SMALL.get(model, []), "optim.lr=3e-3"] for model in MODELS if model != "linear"]
OVERFITTED += [["model=linear", "optim.lr=0.1"], ["model=linear", "loss=squared_hinge"], ["optim=lbfgs"]]
OVERFITTED += [["optim=adamw", "loss=hinge"], ["experiment=mnist_mlp", "data=digits"]]


@pytest.mark.parametrize("words", OVERFITTED, ids=" ".join)
def test_debug_overfit_ends_when_the_loss_is_0_whatever_the_model_and_the_loss(words, train):
    """Keys that an option does not have, such as dropout of model=linear, are no mistake."""
    ran = train("debug=overfit", *words, "callbacks.checkpoints=null", "logger=null", "hydra.run.dir=a")
    assert (ran.code, ran.err) == (0, "")
    results = Run("a").results
    assert results["train"]["loss"] < 0.01
    assert results["epochs"] < 1000
    assert "Stopping threshold reached: train/loss = " in ran.out


def test_a_key_that_a_person_typed_beside_debug_is_still_checked(train):
    ran = train("debug=overfit", "model=linear", "model.dropout=0.5", "hydra.run.dir=a")
    assert ran.code == 1 and ran.err.startswith("error: model.dropout: Linear has no 'dropout'")


def test_a_wrong_key_in_an_experiment_is_found_by_check(compose, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "typo.yaml").write_text("# @package _global_\noptim:\n  wieght_decay: 0.1\n")
    config = check.plain(compose("experiment=typo", f"hydra.searchpath=[file://{tmp_path}]"))
    with pytest.raises(UserError, match=r"optim\.wieght_decay: Adam has no 'wieght_decay'; did you mean weight_decay"):
        check.check(config)


@pytest.mark.parametrize("group", ["data", "model", "init", "optim", "scheduler", "loss", "trainer"])
def test_check_finds_one_wrong_key_in_any_option_of(group, compose, tmp_path):
    for path in sorted((CONFIGS / group).glob("*.yaml")):
        config = check.plain(compose(*words_for(f"{group}={path.stem}", tmp_path)))
        check.check(config)
        config[group]["zzz"] = 1
        _, anything = check.node_signature(group, config[group])
        if not anything:
            with pytest.raises(UserError, match=rf"{group}\.zzz: \w+ has no 'zzz'"):
                check.check(config)


def test_the_default_config_is_plain_values(compose):
    config = check.plain(compose())
    assert {type(value) for value in leaves(config)} <= {str, int, float, bool, type(None)}
    assert not [text for text in leaves(config) if isinstance(text, str) and ("${" in text or "???" in text)]
    assert config["name"] == "cnn_digits"
    assert OmegaConf.to_container(OmegaConf.create(OmegaConf.to_yaml(config))) == config


def test_the_options_are_found_from_any_folder_and_without_a_script(repo, monkeypatch):
    monkeypatch.chdir("/")
    monkeypatch.setattr(sys, "argv", ["-c"])
    assert options.find_configs() == repo / "configs"


def test_a_default_lives_in_one_place():
    """What a YAML file sets has no second default in the signature of our own targets."""
    twice = []
    for path in FILES:
        for node in nodes(OmegaConf.to_container(OmegaConf.load(path))):
            if not str(node.get("_target_")).startswith("athanor."):
                continue
            target = check.locate(path.stem, node["_target_"])
            parameters = inspect.signature(target).parameters
            twice += [
                f"{path.stem}.{key}"
                for key in node
                if key in parameters
                and parameters[key].default is not parameters[key].empty
                # a switch that is off, as in the config of a run from before there was one
                and not (path.stem == "default" and node[key] == parameters[key].default)
            ]
    assert twice == []


def leaves(node):
    if isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            yield from leaves(value)
    else:
        yield node


def nodes(node):
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from nodes(value)
