"""How fast is Athanor? python scripts/benchmark.py mlp [--repeats 5] [--json mlp.json]

Each case runs its contenders one after another, each time in a process of its own, in the order A B C, C B A, A B C,
and so on, and prints the median over the rounds, with the least and the most in brackets. A ratio is taken within each
round, whose runs had the machine at nearly the same time. The time of an epoch is that of its training steps, without
validation; the first epoch, which warms up, is left out. Measure on an idle machine: the load average is printed at the
start and at the end.

contenders:
  athanor       python train.py, with its callbacks and loggers
  plain         the best loop by hand: no framework, no loggers, batches by indexing, fused optimizer
  conventional  Lightning as most templates use it: torchvision transforms per image, DataLoader, torchmetrics

All train one network with the same optimizer, batches and split; the validation accuracy stands beside each time.
The data sets are read from ATHANOR_DATA (or ~/.cache/athanor). Where one is not there, images are generated in the same
shapes.
"""

import argparse
import json
import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from contenders import cases
from contenders.rounds import Results

from athanor.base.errors import UserError
from athanor.engine.app import command_line
from athanor.engine.runs.provenance import cpu_name

LOADER = {"workers": "best"}
MATMUL = {"matmul_precision": None}
CASES: dict[str, tuple[Callable[[argparse.Namespace], Results], dict[str, Any]]] = {
    # sub-command: what measures it and describes it, and the options that it has besides COMMON, with their defaults
    "mlp": (cases.measure_mlp, {"epochs": 3, "images": None, **LOADER, **MATMUL}),
    "resnet20": (cases.measure_resnet20, {"epochs": 2, "images": 6400, **LOADER, **MATMUL}),
    "data": (cases.measure_data, {"images": 12_800, **LOADER}),
    "startup": (cases.measure_startup, {}),
    "memory": (cases.measure_memory, {"epochs": 1, "images": 6400}),
    "lr_range": (cases.measure_lr_range, {"setting": "all"}),
    "ema": (cases.measure_ema, {"epochs": 3, "images": 3200}),
}
COMMON = {"repeats": 5, "threads": 1, "device": "cpu", "json": None}
OPTIONS = {
    "repeats": {"type": int, "help": "rounds; for lr_range the number of seeds"},
    "threads": {"type": int, "help": "of each process"},
    "device": {"choices": ("cpu", "gpu"), "help": "where the training runs"},
    "json": {"type": Path, "metavar": "FILE", "help": "write every measurement to this file"},
    "setting": {"choices": ("all", *cases.SETTINGS), "help": "model and optimizer"},
    "epochs": {"type": int, "help": "of each run"},
    "images": {"type": int, "help": "use so many of the training images, including a tenth for validation"},
    "workers": {"help": "of the DataLoader: a number, or best, which tries 0, 1, 2, 4, 8, 16 up to the cores"},
    "matmul_precision": {
        "choices": ("highest", "high", "medium"),
        "help": "of athanor and plain; else Athanor's choice",
    },
}


def main() -> None:
    options = parse_options()
    results = {"machine": describe_machine(options), "cases": {}}
    print(heading(results["machine"]), flush=True)
    for name in CASES if options.case == "all" else [options.case]:
        measure, defaults = CASES[name]
        results["cases"] |= measure(argparse.Namespace(**{**defaults, **vars(options)}))
        results["machine"]["load_at_end"] = os.getloadavg()[0]
        if options.json:  # after each case, so that an interrupted `all` keeps the cases that are done
            options.json.write_text(json.dumps(results, indent=2) + "\n")
    print(f"\nload average at the end: {results['machine']['load_at_end']:.2f}")


def parse_options() -> argparse.Namespace:
    """The command line. Raises UserError where a value makes no sense."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subcommands = parser.add_subparsers(dest="case", required=True, metavar="case", title="cases")
    described = {name: (measure.__doc__, defaults) for name, (measure, defaults) in CASES.items()}
    described["all"] = ("One case after another, with their defaults.", {**LOADER, **MATMUL})
    for name, (about, defaults) in described.items():
        subcommand = subcommands.add_parser(name, help=about, description=about)
        for option, default in {**COMMON, **defaults}.items():
            about = OPTIONS[option]["help"] + ("" if default is None else f" (default {default})")
            flag = f"--{option.replace('_', '-')}"
            subcommand.add_argument(flag, default=default, **{**OPTIONS[option], "help": about})
    options = parser.parse_args()
    for name in "repeats", "threads", "epochs", "images":
        value = getattr(options, name, None)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: use 1 or more")
    workers = getattr(options, "workers", "best")
    if workers != "best" and not workers.isdecimal():
        raise UserError(f"--workers {workers}: use a number from 0, or best")
    if options.json and not options.json.absolute().parent.is_dir():
        raise UserError(f"--json {options.json}: there is no folder {options.json.parent}")
    return options


def describe_machine(options: argparse.Namespace) -> dict[str, Any]:
    """What the results depend on. Raises UserError where the GPU that was asked for is not there."""
    machine = {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "lightning", "torchvision")},
        "load_at_start": os.getloadavg()[0],
    }
    if options.device == "gpu":
        import torch  # not above: Linux counts the memory of this process as that of those which it starts

        if not torch.cuda.is_available():
            raise UserError("--device gpu: torch finds no CUDA device on this machine; leave it out to measure the CPU")
        machine["gpu"] = torch.cuda.get_device_name()
    return machine


def heading(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "lightning", "torchvision", "python"))
    devices = f"{machine['gpu']}; {machine['cpu']}" if "gpu" in machine else machine["cpu"]
    return (
        f"{devices}, cores {machine['cores']}, threads a process {machine['threads']}, "
        f"load average {machine['load_at_start']:.2f}\n{versions}"
    )


if __name__ == "__main__":
    command_line.start(main)
