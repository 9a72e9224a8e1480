"""The cases of scripts/benchmark.py: which contenders run, on what, and which of their measurements are compared."""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from contenders import tables
from contenders.process import data_dir
from contenders.rounds import Comparison, Results, best_workers, describe_data, with_workers, word_value

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

FEW = 12_800  # images, enough to see which number of workers is fastest
PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}
BESIDE = ["images_per_s", "val_acc", "matmul_precision", "peak_mb", "gpu_peak_mb"]
TIMES = ["epoch_s", "fit_s", "command_s"]

PATHS = ("athanor", "bare")  # of the case streamed

# of the case lr_range
MNIST = ["data=mnist", "scheduler=cosine", "trainer.max_epochs=2"]
DIGITS = ["data=digits", "scheduler=cosine", "trainer.max_epochs=10"]
SETTINGS = {
    "linear-sgd": [*MNIST, "model=linear", "optim=sgd"],
    "mlp-nesterov": [*MNIST, "model=mlp", "optim=nesterov"],
    "mlp-adam": [*MNIST, "model=mlp", "optim=adam"],
    "mlp-muon": [*MNIST, "model=mlp", "optim=muon"],
    "cnn-nesterov": [*DIGITS, "model=cnn", "optim=nesterov"],
    "cnn-adam": [*DIGITS, "model=cnn", "optim=adam"],
}
NAMES = {"minimum": "minimum / 5", "steepest": "steepest", "lightning": "Lightning's finder"}


def mlp(options: argparse.Namespace) -> Iterator[Comparison]:
    """An MLP on MNIST: seconds of an epoch."""
    words = training_words(MLP, options)
    workers = conventional_workers(words, options)
    pairs = [("conventional", "athanor"), ("athanor", "plain")]
    title = f"mlp: MLP 784-64-128-64-10, epochs {options.epochs}, DataLoader workers {workers}"
    yield Comparison(title, words, three_contenders(words, workers), options, TIMES, BESIDE, pairs)


def resnet20(options: argparse.Namespace) -> Iterator[Comparison]:
    """ResNet-20 on CIFAR-10, in float32 and bfloat16: seconds of an epoch."""
    words = training_words(RESNET, options)
    workers = conventional_workers(words, options)
    commands, pairs = {}, []
    for name in PRECISIONS if options.precision == "both" else [options.precision]:
        run = [*words, f"trainer.precision={PRECISIONS[name]}"]
        commands |= {f"athanor-{name}": athanor_command(run), f"plain-{name}": module_command("plain_loop", run)}
        pairs += [("conventional", f"athanor-{name}"), (f"athanor-{name}", f"plain-{name}")]
    commands["conventional"] = with_workers(module_command("conventional", words), workers)
    title = f"resnet20: ResNet-20, crop and flip, epochs {options.epochs}, DataLoader workers {workers}"
    yield Comparison(title, words, commands, options, TIMES, BESIDE, pairs)


def data(options: argparse.Namespace) -> Iterator[Comparison]:
    """The data path alone, on MNIST and on CIFAR-10: images a second."""
    for name, base, changes in ("mnist", MLP, ""), ("cifar10", RESNET, "cropped, flipped, "):
        words = training_words(base, options)
        paths = {path: module_command("data_paths", words, path=path) for path in ("athanor", "torchvision")}
        if workers := best_workers(options, words, paths["torchvision"]):
            paths[f"torchvision, workers {workers}"] = with_workers(paths["torchvision"], workers)
        pairs = [("athanor", other) for other in reversed(paths) if other != "athanor"]
        title = f"data-{name}: shuffled, {changes}standardised batches of 128"
        yield Comparison(title, words, paths, options, ["images_per_s"], pairs=pairs)


def streamed(options: argparse.Namespace) -> Iterator[Comparison]:
    """Microseconds an item of a torch Dataset, beside a bare DataLoader, whose items draw numbers unseeded."""
    for kind, draws in {"torch": "torch", "torch, numpy and random": "all"}.items():
        for workers in 0, 2:
            settings = {"items": options.images, "workers": workers, "draws": draws}
            commands = {path: module_command("streamed_paths", [], path=path, **settings) for path in PATHS}
            title = f"streamed-{draws}-{workers}: items that draw from {kind}, workers {workers}"
            yield Comparison(title, ["data=drawing"], commands, options, ["us_per_item"], pairs=[PATHS])


def memory(options: argparse.Namespace) -> Iterator[Comparison]:
    """Peak memory of both trainings."""
    for name, base in {"mlp": MLP, "resnet20": RESNET}.items():
        words = training_words(base, options)
        # no DataLoader workers: they would be processes of their own, with memory of their own
        commands = three_contenders(words, workers=0)
        pairs = [("athanor", "plain"), ("conventional", "plain")]
        keys = ["peak_mb", "gpu_peak_mb"] if options.device == "gpu" else ["peak_mb"]
        title = f"memory-{name}: peak resident memory of one epoch"
        yield Comparison(title, words, commands, options, keys, ["val_acc"], pairs)


def ema(options: argparse.Namespace) -> Iterator[Comparison]:
    """What a moving average of the weights costs a training step; validation, which it doubles, is not timed."""
    words = training_words(RESNET, options)
    commands = {"athanor": athanor_command(words), "athanor, ema": athanor_command([*words, "callbacks=ema"])}
    title = f"ema: ResNet-20 with and without a moving average of its weights, epochs {options.epochs}"
    yield Comparison(title, words, commands, options, ["epoch_s"], BESIDE, [("athanor, ema", "athanor")])


def compiled(options: argparse.Namespace) -> Iterator[Comparison]:
    """ResNet-20 in float32, in bfloat16, and in bfloat16 compiled by torch.compile: seconds of an epoch."""
    words = training_words(RESNET, options)
    commands = {name: athanor_command([*words, f"trainer.precision={PRECISIONS[name]}"]) for name in PRECISIONS}
    commands["bf16, compiled"] = athanor_command([*words, "trainer.precision=bf16-mixed", "compute.compile=true"])
    pairs = [("bf16", "bf16, compiled"), ("fp32", "bf16")]
    title = f"compile: ResNet-20, crop and flip, epochs {options.epochs}"
    yield Comparison(title, words, commands, options, TIMES, BESIDE, pairs)


def startup(options: argparse.Namespace) -> Iterator[Comparison]:
    """How long a person waits for the config on the terminal, and for the first training step, in seconds."""
    words = ["data=digits", "model=cnn", "optim=adam", f"trainer={options.device}"]
    commands = {"--cfg job": [TRAIN, "--cfg", "job"], "first step": athanor_command(words, "EndAfterOneStep")}
    title = "startup: python train.py model=cnn optim=adam"
    yield Comparison(title, words, commands, options, ["command_s"], ["peak_mb"])


def lr_range(options: argparse.Namespace) -> Iterator[Comparison]:
    """What training costs at the learning rate that a range test gives, against the best of 21 rates."""
    once = argparse.Namespace(**{**vars(options), "repeats": 1})
    for name in SETTINGS if options.setting == "all" else [options.setting]:
        words = [*SETTINGS[name], "trainer=cpu", *data_source(SETTINGS[name])]
        command = module_command("lr_range_losses", [*words, "callbacks=lr_range", "logger=[]"], seeds=options.repeats)
        title = f"lr_range-{name}: {' '.join(SETTINGS[name])}, seeds {options.repeats}"
        yield RateComparison(title, words, {"lr_range": command}, once, [])


class RateComparison(Comparison):
    """The rules of the range test, which one process measures over all its seeds."""

    def results(self) -> Results:
        report = self.rounds[0]["lr_range"]
        return {"data": describe_data(self.words), **judge(report), **report}

    def text(self) -> str:
        results = self.results()
        return f"\n{self.title}\n{results['data']}\n\n{rule_table(results)}"


def judge(report: dict[str, Any]) -> dict[str, Any]:
    """For each rule the range of its answers, and how much validation loss (nats) they lose against the best rate."""
    means = [mean(losses) for losses in report["grid_losses"]]
    best = min(range(len(means)), key=means.__getitem__)
    rules = {}
    for rule in NAMES:
        rates = [answers[rule] for answers in report["answers"]]
        lost = [losses[rule] - report["grid_losses"][best][seed] for seed, losses in enumerate(report["losses"])]
        rules[rule] = {
            "lr": tables.median_and_range(rates),
            "spread": max(rates) / min(rates) if all(map(math.isfinite, rates)) else math.inf,
            "regret": {"mean": mean(lost), **tables.median_and_range(lost)},
        }
    return {"best_lr": report["grid"][best], "best_loss": means[best], "rules": rules}


def rule_table(case: dict[str, Any]) -> str:
    rows = []
    for rule, numbers in case["rules"].items():
        lost = [f"{numbers['regret'][key]:+.3f}" for key in ("mean", "max")]
        rows.append([NAMES[rule], tables.format_range(numbers["lr"], ".2g"), f"{numbers['spread']:.1f}", *lost])
    rows.append(["best of the grid", f"{case['best_lr']:.2g}", "", f"{case['best_loss']:.3f}", ""])
    return tables.text_table(["", "learning rate", "largest/least", "nats lost, mean", "most"], rows)


# what is run


def training_words(base: list[str], options: argparse.Namespace) -> list[str]:
    """Words of train.py's command line, which all contenders understand."""
    words = [*base, f"trainer={options.device}", "trainer.precision=32-true", *data_source(base)]
    settings = {"images": "data.limit", "epochs": "trainer.max_epochs", "matmul_precision": "compute.matmul_precision"}
    words += [f"{key}={getattr(options, name)}" for name, key in settings.items() if getattr(options, name, None)]
    return words


def data_source(base: list[str]) -> list[str]:
    """No word where the data set is on this machine, else the word that puts generated images in its place."""
    name = word_value(base, "data")
    is_there = name not in FILES or any((data_dir() / file).exists() for file in FILES[name])
    return [] if is_there else [f"data._target_=contenders.generated.{name}"]


def athanor_command(words: list[str], callback: str = "EpochTimes") -> list[str]:
    """What follows `python` to train with train.py, measured by a callback of contenders.timing."""
    return [
        TRAIN,
        *words,
        "eval.test=false",
        "hydra.run.dir=run",
        f"+callbacks.benchmark._target_=contenders.timing.{callback}",
    ]


def module_command(module: str, words: list[str], **options: object) -> list[str]:
    """What follows `python` to run another contender, with options of its own."""
    return ["-m", f"contenders.{module}", *(f"--{name}={option}" for name, option in options.items()), *words]


def three_contenders(words: list[str], workers: int) -> dict[str, list[str]]:
    return {
        "athanor": athanor_command(words),
        "plain": module_command("plain_loop", words),
        "conventional": with_workers(module_command("conventional", words), workers),
    }


def conventional_workers(words: list[str], options: argparse.Namespace) -> int:
    few = [*words, f"data.limit={min(options.images or FEW, FEW)}", "trainer.max_epochs=2"]
    return best_workers(options, words, module_command("conventional", few))
