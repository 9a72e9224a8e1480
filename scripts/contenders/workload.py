"""What the contenders run: words of train.py's command line, and the commands that hand them to each contender."""

import argparse
from pathlib import Path

from contenders import process

TRAIN = str(Path(__file__).resolve().parents[2] / "train.py")
MLP = ["data=mnist", "data.batch_size=128", "model=mlp", "model.widths=[64,128,64]", "optim=adam", "optim.lr=1e-3"]
RESNET = [
    *("data=cifar10", "data.batch_size=128", "data.augment.crop=4", "data.augment.flip=true"),
    *("model=resnet", "model.depth=20", "optim=nesterov", "optim.lr=0.1", "optim.weight_decay=1e-4"),
]
FILES = {  # any one of the files means that the data set is there; data sets that are not named come with the package
    "mnist": ("MNIST/raw/train-images-idx3-ubyte", "MNIST/raw/train-images-idx3-ubyte.gz"),
    "cifar10": ("cifar-10-batches-py", "cifar-10-python.tar.gz", "cifar10"),
}


def workload(base: list[str], options: argparse.Namespace) -> list[str]:
    """Words of train.py's command line, which all contenders understand."""
    words = [*base, f"trainer={options.device}", "trainer.precision=32-true", *data_source(base)]
    settings = {"images": "data.limit", "epochs": "trainer.max_epochs", "matmul_precision": "matmul_precision"}
    words += [f"{key}={getattr(options, name)}" for name, key in settings.items() if getattr(options, name, None)]
    return words


def value_of(words: list[str], key: str) -> str | None:
    return next((word.partition("=")[2] for word in words if word.startswith(f"{key}=")), None)


def data_source(base: list[str]) -> list[str]:
    """No word where the data set is on this machine, else the word that puts generated images in its place."""
    name = value_of(base, "data")
    is_there = name not in FILES or any((process.data_dir() / file).exists() for file in FILES[name])
    return [] if is_there else [f"data._target_=contenders.generated.{name}"]


def describe_data(words: list[str]) -> str:
    limit = value_of(words, "data.limit")
    kind = "GENERATED images in the shape of " if value_of(words, "data._target_") else ""
    return f"{kind}{value_of(words, 'data')}, {f'{int(limit):,} of its' if limit else 'all'} training images"


def athanor_command(words: list[str], callback: str = "EpochTimes") -> list[str]:
    """What follows `python` to train with train.py, measured by a callback of contenders.timing."""
    return [
        TRAIN,
        *words,
        "test=false",
        "hydra.run.dir=run",
        f"+callbacks.benchmark._target_=contenders.timing.{callback}",
    ]


def module_command(module: str, words: list[str], **options: object) -> list[str]:
    """What follows `python` to run another contender, with options of its own."""
    return ["-m", f"contenders.{module}", *(f"--{name}={option}" for name, option in options.items()), *words]
