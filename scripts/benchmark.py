"""How fast is Athanor? python scripts/benchmark.py mlp [--repeats 5] [--json mlp.json]

Each case runs its contenders one after another, each time in a process of its own, in the order A B C, C B A, A B C,
... and prints the median over the rounds, with the least and the most in brackets. A ratio is taken within each round,
whose runs had the machine at nearly the same time. An epoch is its training steps, without validation; the first one,
which warms up, is left out. Measure on an idle machine: the load average is printed at the start and at the end.

contenders:
  athanor       python train.py, with its callbacks and loggers
  plain         the best loop by hand: no framework, no loggers, batches by indexing, fused optimizer
  conventional  Lightning as most templates use it: torchvision transforms per image, DataLoader, torchmetrics

All train one network with the same optimizer, batches and split; the validation accuracy stands beside each time.
Data come from ATHANOR_DATA (or ~/.cache/athanor) where they are there, else they are generated in the same shapes.
"""

import argparse
import json
import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from contenders import averages, cases, rates

from athanor.base.errors import UserError
from athanor.engine.app import command_line
from athanor.engine.runs.provenance import cpu_name


class Case(NamedTuple):
    """A sub-command: what it measures, and the options that it has besides the common ones, with their defaults."""

    measure: Callable[[argparse.Namespace], cases.Results]
    about: str
    defaults: dict[str, Any]


LOADER = {"workers": "best"}
MATMUL = {"matmul_precision": None}
CASES = {
    "mlp": Case(cases.mlp, "an MLP on MNIST: seconds of an epoch", {"epochs": 3, "images": None, **LOADER, **MATMUL}),
    "resnet20": Case(
        cases.resnet20,
        "ResNet-20 on CIFAR-10, in float32 and bfloat16",
        {"epochs": 2, "images": 6400, **LOADER, **MATMUL},
    ),
    "data": Case(cases.data, "the data path alone: images a second", {"images": 12_800, **LOADER}),
    "startup": Case(cases.startup, "seconds to the config, and to the first training step", {}),
    "memory": Case(cases.memory, "peak memory of both trainings", {"epochs": 1, "images": 6400}),
    "lr_range": Case(
        rates.lr_range, "what training costs at the learning rate that a range test gives", {"setting": "all"}
    ),
    "ema": Case(averages.ema, "what a moving average of the weights costs a step", {"epochs": 3, "images": 3200}),
    "step": Case(cases.step, "where a step's microseconds go", {"epochs": 3, "images": 25_600, **MATMUL}),
}
COMMON = {"repeats": 5, "threads": 1, "device": "cpu", "json": None}
OPTIONS = {
    "repeats": {"type": int, "help": "rounds; seeds of lr_range"},
    "threads": {"type": int, "help": "of each process"},
    "device": {"choices": ("cpu", "gpu"), "help": "where the training runs"},
    "json": {"type": Path, "metavar": "FILE", "help": "write every measurement there"},
    "setting": {"choices": ("all", *rates.SETTINGS), "help": "model and optimizer"},
    "epochs": {"type": int, "help": "of each run"},
    "images": {"type": int, "help": "use so many of the training images, the tenth for validation included"},
    "workers": {"help": "of the DataLoader: a number, or best, which tries 0, 1, 2, 4, 8, 16 up to the cores"},
    "matmul_precision": {
        "choices": ("highest", "high", "medium"),
        "help": "of athanor and plain; without it Athanor's own choice. conventional has torch's default",
    },
}


def main() -> None:
    options = parse()
    results = {"machine": machine(options), "cases": {}}
    print(heading(results["machine"]), flush=True)
    for name in CASES if options.case == "all" else [options.case]:
        chosen = argparse.Namespace(**{**CASES[name].defaults, **vars(options)})
        results["cases"] |= CASES[name].measure(chosen)
        results["machine"]["load_at_end"] = os.getloadavg()[0]
        if options.json:  # after each case: who interrupts `all` keeps what is done
            options.json.write_text(json.dumps(results, indent=2) + "\n")
    print(f"\nload average at the end: {results['machine']['load_at_end']:.2f}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases = parser.add_subparsers(dest="case", required=True, metavar="case", title="cases")
    for name, case in CASES.items():
        add(cases.add_parser(name, help=case.about, description=case.about), case.defaults)
    add(cases.add_parser("all", help="one after another, with their defaults"), {**LOADER, **MATMUL})
    options = parser.parse_args()
    check(options)
    return options


def add(parser: argparse.ArgumentParser, defaults: dict[str, Any]) -> None:
    for name, default in {**COMMON, **defaults}.items():
        about = OPTIONS[name]["help"] + ("" if default is None else f" (default {default})")
        parser.add_argument(f"--{name.replace('_', '-')}", default=default, **{**OPTIONS[name], "help": about})


def check(options: argparse.Namespace) -> None:
    for name in "repeats", "threads", "epochs", "images":
        value = getattr(options, name, None)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: use 1 or more")
    workers = getattr(options, "workers", "best")
    if workers != "best":
        if not workers.isdecimal():
            raise UserError(f"--workers {workers}: use a number from 0, or best")
        options.workers = int(workers)
    if options.json and not options.json.absolute().parent.is_dir():
        raise UserError(f"--json {options.json}: there is no folder {options.json.parent}")


def machine(options: argparse.Namespace) -> dict[str, Any]:
    found = {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "lightning", "torchvision")},
        "load_at_start": os.getloadavg()[0],
    }
    return {**found, "gpu": gpu_name()} if options.device == "gpu" else found


def gpu_name() -> str:
    import torch  # not above: Linux counts the memory of this process as that of those which it starts

    if not torch.cuda.is_available():
        raise UserError("--device gpu: torch finds no CUDA device on this machine; leave it out to measure the CPU")
    return torch.cuda.get_device_name()


def heading(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "lightning", "torchvision", "python"))
    where = f"{machine['gpu']}; {machine['cpu']}" if "gpu" in machine else machine["cpu"]
    return (
        f"{where}, cores {machine['cores']}, threads a process {machine['threads']}, "
        f"load average {machine['load_at_start']:.2f}\n{versions}"
    )


if __name__ == "__main__":
    command_line.run(main)
