"""The cases of scripts/benchmark.py: which contenders meet, on what, and what is compared."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from contenders import process, report

TRAIN = str(Path(__file__).resolve().parents[2] / "train.py")
MLP = ["data=mnist", "data.batch_size=128", "model=mlp", "model.widths=[64,128,64]", "optim=adam", "optim.lr=1e-3"]
RESNET = [
    *("data=cifar10", "data.batch_size=128", "data.augment.crop=4", "data.augment.flip=true"),
    *("model=resnet", "model.depth=20", "optim=nesterov", "optim.lr=0.1", "optim.weight_decay=1e-4"),
]
BASES = {"mlp": MLP, "resnet20": RESNET}
FILES = {  # any of them means that the data set is there; what is not here comes with the package
    "mnist": ("MNIST/raw/train-images-idx3-ubyte", "MNIST/raw/train-images-idx3-ubyte.gz"),
    "cifar10": ("cifar-10-batches-py", "cifar-10-python.tar.gz", "cifar10"),
}
WORKERS = (0, 1, 2, 4, 8, 16)  # that are tried
FEW = 12_800  # images are enough to find out

COLUMNS = {  # what a record holds: heading and number format
    "epoch_s": ("s/epoch", ".3f"),
    "images_per_s": ("images/s", ",.0f"),
    "fit_s": ("s of fit", ".2f"),
    "command_s": ("s of command", ".2f"),
    "val_acc": ("val acc", ".2%"),
    "matmul_precision": ("matmul", ""),
    "peak_mb": ("peak MiB", ",.0f"),
    "gpu_peak_mb": ("GPU peak MiB", ",.0f"),
}

Commands = dict[str, list[str]]  # contender -> what follows `python`
Pairs = list[tuple[str, str]]  # of contenders, whose ratio is taken
Results = dict[str, Any]


# what runs


def workload(base: list[str], options: argparse.Namespace) -> list[str]:
    """Words of train.py's command line, which all contenders understand."""
    words = [*base, f"trainer={options.device}", "trainer.precision=32-true", *data_source(base)]
    if getattr(options, "images", None):
        words.append(f"data.limit={options.images}")
    if getattr(options, "epochs", None):
        words.append(f"trainer.max_epochs={options.epochs}")
    if getattr(options, "matmul_precision", None):
        words.append(f"matmul_precision={options.matmul_precision}")
    return words


def value(words: list[str], key: str) -> str | None:
    return next((word.partition("=")[2] for word in words if word.startswith(f"{key}=")), None)


def data_source(base: list[str]) -> list[str]:
    """Nothing where the data set is on this machine, else what puts generated images in its place."""
    name = value(base, "data")
    there = name not in FILES or any((process.data_dir() / file).exists() for file in FILES[name])
    return [] if there else [f"data._target_=contenders.generated.{name}"]


def about_data(words: list[str]) -> str:
    limit = value(words, "data.limit")
    kind = "GENERATED images in the shape of " if value(words, "data._target_") else ""
    return f"{kind}{value(words, 'data')}, {f'{int(limit):,} of its' if limit else 'all'} training images"


def athanor(words: list[str], callback: str = "EpochTimes") -> list[str]:
    timing = f"+callbacks.benchmark._target_=contenders.callbacks.{callback}"
    return [TRAIN, *words, "test=false", "hydra.run.dir=run", timing]


def contender(module: str, words: list[str], **settings: object) -> list[str]:
    options = [part for name, setting in settings.items() for part in (f"--{name.replace('_', '-')}", str(setting))]
    return ["-m", f"contenders.{module}", *options, *words]


def best_workers(options: argparse.Namespace, seconds: Callable[[int], float]) -> int:
    """The number asked for, or the one that takes the least time."""
    if options.workers != "best":
        return options.workers
    tried = {count: seconds(count) for count in WORKERS if count <= os.cpu_count()}
    return min(tried, key=tried.get)


# what is compared


def compare(
    title: str, words: list[str], commands: Commands, keys: list[str], beside: list[str], pairs: Pairs, options
) -> Results:
    """Run the contenders in turns, and print medians and spreads of `keys`, their ratios, and medians of `beside`."""
    records = {name: [] for name in commands}
    for number, names in enumerate(report.turns(list(commands), options.repeats), start=1):
        for name in names:
            say(f"{title.partition(':')[0]}: round {number} of {options.repeats}, {name}")
            records[name].append(completed(process.run(commands[name], options.threads)))
    say("")
    found = {
        "title": title,
        "data": about_data(words),
        "commands": commands,
        "contenders": {name: {"rounds": rounds, "summary": summary(rounds)} for name, rounds in records.items()},
        "ratios": {f"{a} / {b}": compared(records[a], records[b], keys) for a, b in pairs},
    }
    tables = [times(found, keys, beside), relations(found, keys)] if pairs else [times(found, keys, beside)]
    print("\n\n".join([f"\n{title}\n{found['data']}", *tables]), flush=True)
    return found


def completed(record: Results) -> Results:
    """A record of a training with what follows from it."""
    if "epoch_seconds" not in record:
        return record
    epoch = report.steady(record["epoch_seconds"])
    return {**record, "epoch_s": epoch, "images_per_s": record["images"] / epoch}


def summary(rounds: list[Results]) -> Results:
    numbers = [key for key in COLUMNS if isinstance(rounds[0].get(key), float)]
    return {key: report.spread([record[key] for record in rounds]) for key in numbers}


def compared(numerators: list[Results], denominators: list[Results], keys: list[str]) -> Results:
    return {key: report.ratios([a[key] for a in numerators], [b[key] for b in denominators]) for key in keys}


def times(found: Results, keys: list[str], beside: list[str]) -> str:
    rows = []
    for name, contender in found["contenders"].items():
        spreads, last = contender["summary"], contender["rounds"][-1]
        cells = [report.shown(spreads[key], COLUMNS[key][1]) for key in keys]
        cells += [format(spreads[key]["median"], COLUMNS[key][1]) if key in spreads else last[key] for key in beside]
        rows.append([name, *cells])
    return report.table(["", *(COLUMNS[key][0] for key in [*keys, *beside])], rows)


def relations(found: Results, keys: list[str]) -> str:
    rows = [[pair, *(report.shown(ratio[key], ".2f") for key in keys)] for pair, ratio in found["ratios"].items()]
    return report.table(["ratio of", *(COLUMNS[key][0] for key in keys)], rows)


def say(line: str) -> None:
    """What runs now, on the terminal and not in the report."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)


# the cases

TIMES, BESIDE = ["epoch_s", "fit_s", "command_s"], ["images_per_s", "val_acc", "matmul_precision", "peak_mb"]


def mlp(options: argparse.Namespace) -> Results:
    words = workload(MLP, options)
    workers = conventional_workers(words, options)
    commands = {
        "athanor": athanor(words),
        "plain": contender("plain", words),
        "conventional": contender("conventional", words, workers=workers),
    }
    pairs = [("conventional", "athanor"), ("athanor", "plain")]
    title = f"mlp: MLP 784-64-128-64-10, epochs {options.epochs}, DataLoader workers {workers}"
    return {"mlp": compare(title, words, commands, TIMES, BESIDE, pairs, options)}


def resnet20(options: argparse.Namespace) -> Results:
    words = workload(RESNET, options)
    workers = conventional_workers(words, options)
    commands: Commands = {}
    for name, precision in {"fp32": "32-true", "bf16": "bf16-mixed"}.items():
        run = [*words, f"trainer.precision={precision}"]
        commands[f"athanor-{name}"] = athanor(run)
        commands[f"plain-{name}"] = contender("plain", run)
    commands["conventional"] = contender("conventional", words, workers=workers)
    pairs = [("conventional", "athanor-fp32"), ("conventional", "athanor-bf16")]
    pairs += [("athanor-fp32", "plain-fp32"), ("athanor-bf16", "plain-bf16")]
    title = f"resnet20: ResNet-20, crop and flip, epochs {options.epochs}, DataLoader workers {workers}"
    return {"resnet20": compare(title, words, commands, TIMES, BESIDE, pairs, options)}


def conventional_workers(words: list[str], options: argparse.Namespace) -> int:
    few = [*words, f"data.limit={min(options.images or FEW, FEW)}", "trainer.max_epochs=2"]

    def seconds(count: int) -> float:
        say(f"which number of workers is best: {count}")
        return report.steady(
            process.run(contender("conventional", few, workers=count), options.threads)["epoch_seconds"]
        )

    return best_workers(options, seconds)


def data(options: argparse.Namespace) -> Results:
    """The data path alone, of each of the two data sets."""
    results = {}
    for name, base in {"mnist": MLP, "cifar10": RESNET}.items():
        words = workload(base, options)

        def seconds(count: int, words: list[str] = words) -> float:
            command = contender("loading", words, path="torchvision", workers=count)
            return 1 / process.run(command, options.threads)["images_per_s"]

        workers = best_workers(options, seconds)
        commands = {
            "athanor": contender("loading", words, path="athanor"),
            "torchvision": contender("loading", words, path="torchvision"),
        }
        if workers:
            commands[f"torchvision, workers {workers}"] = contender(
                "loading", words, path="torchvision", workers=workers
            )
        pairs = [("athanor", other) for other in commands if other != "athanor"]
        title = f"data-{name}: shuffled, {'cropped, flipped, ' if name == 'cifar10' else ''}standardised batches of 128"
        results[f"data-{name}"] = compare(title, words, commands, ["images_per_s"], [], pairs, options)
    return results


def memory(options: argparse.Namespace) -> Results:
    """Without workers, which would be processes of their own with memory of their own."""
    results = {}
    for name, base in BASES.items():
        words = workload(base, options)
        commands = {
            "athanor": athanor(words),
            "plain": contender("plain", words),
            "conventional": contender("conventional", words, workers=0),
        }
        pairs = [("athanor", "plain"), ("conventional", "plain")]
        keys = ["peak_mb", "gpu_peak_mb"] if options.device == "gpu" else ["peak_mb"]
        title = f"memory-{name}: peak resident memory of one epoch"
        results[f"memory-{name}"] = compare(title, words, commands, keys, ["val_acc"], pairs, options)
    return results


def startup(options: argparse.Namespace) -> Results:
    """How long a person waits: for the config on the terminal, and for the first training step."""
    words = ["data=digits", "model=cnn", "optim=adam", "trainer.max_steps=1", f"trainer={options.device}"]
    start = "import sys; from contenders.startup import main; main()"
    commands = {
        "--cfg job": [TRAIN, "--cfg", "job"],
        "first step": ["-c", start, *athanor(words, "FirstStep")[1:]],
    }
    found = compare(
        "startup: python train.py model=cnn optim=adam", words, commands, ["command_s"], ["peak_mb"], [], options
    )
    rounds = [record["rows"] for record in found["contenders"]["first step"]["rounds"]]
    found["first_step_ms"] = {span: 1000 * median(rows.get(span, 0.0) for rows in rounds) for span in rounds[0]}
    print(f"\n{pieces(small_imports_together(found['first_step_ms']), 'to the first step', 'ms')}", flush=True)
    return {"startup": found}


def small_imports_together(found: dict[str, float]) -> dict[str, float]:
    """Packages that take less than a hundredth of the whole in one row: there are dozens."""
    small = [
        span for span, amount in found.items() if span.startswith("import ") and amount < sum(found.values()) / 100
    ]
    kept = {span: amount for span, amount in found.items() if span not in small}
    return {**kept, f"import {len(small)} smaller packages": sum(found[span] for span in small)}


def step(options: argparse.Namespace) -> Results:
    words = workload(MLP, options)
    say("step: one process, in turns as it is, with timers, and plain")
    record = process.run(contender("steps", words, repeats=options.repeats), options.threads)
    say("")
    whole = median(rows["step"] for rows in record["as it is"])
    plain = median(rows["step"] for rows in record["plain"])
    spans = dict.fromkeys(span for rows in record["timed"] for span in rows)
    found = {span: median(rows.get(span, 0.0) for rows in record["timed"]) for span in spans}
    correction = whole - sum(found.values())
    print(f"\nstep: one training step of the MLP, batches of 128\n{about_data(words)}\n")
    print(pieces(found, "in Athanor", "us", {"less what the timers cost, and noise": correction}))
    print(f"\n  the plain loop's step: {plain:.0f} us; athanor / plain {whole / plain:.2f}", flush=True)
    return {"step": {"athanor_us": whole, "plain_us": plain, "rows_us": found, **record}}


def pieces(found: dict[str, float], whole: str, unit: str, correction: dict[str, float] | None = None) -> str:
    """Rows, the longest first and the correction last, that add up to the total."""
    rows = [*sorted(found.items(), key=lambda item: -item[1]), *(correction or {}).items()]
    total = sum(amount for _, amount in rows)
    cells = [[name, f"{amount:.1f}", f"{amount / total:.1%}"] for name, amount in rows]
    return report.table([whole, unit, "share"], [*cells, ["total", f"{total:.1f}", "100.0%"]])
