"""How fast is Athanor? python scripts/benchmark.py mlp [--repeats 5] [--json mlp.json]

`all` measures what makes sense on the device, writes one JSON and prints the rows of the README's table. On a GPU it
ends within 9 minutes (--minutes): the cases take turns, so that a short time means fewer rounds and no case less.

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
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from contenders import cases
from contenders.readme import for_readme
from contenders.rounds import Comparison

from athanor.base.errors import UserError
from athanor.engine.app import command_line
from athanor.engine.runs.provenance import cpu_name

LOADER = {"workers": "best"}
MATMUL = {"matmul_precision": None}
CASES: dict[str, tuple[Callable[[argparse.Namespace], Iterable[Comparison]], dict[str, Any]]] = {
    # sub-command: what makes its comparisons and describes it, and the options that it has besides COMMON, with their
    # defaults. `all` begins with the first, so where the time is very short the last ones are left out.
    "mlp": (cases.mlp, {"epochs": 3, "images": None, **LOADER, **MATMUL}),
    "resnet20": (cases.resnet20, {"epochs": 2, "images": 6400, "precision": "both", **LOADER, **MATMUL}),
    "data": (cases.data, {"images": 12_800, **LOADER}),
    "streamed": (cases.streamed, {"images": 20_000}),
    "startup": (cases.startup, {}),
    "compile": (cases.compiled, {"epochs": 3, "images": 6400}),
    "ema": (cases.ema, {"epochs": 3, "images": 3200}),
    "memory": (cases.memory, {"epochs": 1, "images": 6400}),
    "lr_range": (cases.lr_range, {"setting": "all"}),
}
NO_TIME = "no time was left for it; use more --minutes"
COMMON = {"repeats": 5, "threads": 1, "device": "cpu", "json": None, "minutes": None}
ALL = {  # by device: the cases of `all`, and where their options differ
    "cpu": {name: {} for name in CASES if name not in ("compile", "streamed")},
    "gpu": {  # few images and few rounds, because starting a process takes most of the time
        "mlp": {"images": 20_000},
        "resnet20": {"epochs": 3, "images": 12_800, "precision": "bf16"},
        "data": {"repeats": 3},
        "startup": {"repeats": 3},
        "compile": {"images": 12_800, "repeats": 3},
        "ema": {"images": 12_800, "repeats": 2},
    },
}
GPU = "import torch; print(torch.cuda.get_device_name(), torch.version.cuda, sep='\\n')"
OPTIONS = {
    "repeats": {"type": int, "help": "rounds; for lr_range the number of seeds"},
    "threads": {"type": int, "help": "of each process"},
    "device": {"choices": ("cpu", "gpu"), "help": "where the training runs"},
    "json": {"type": Path, "metavar": "FILE", "help": "write every measurement to this file"},
    "setting": {"choices": ("all", *cases.SETTINGS), "help": "model and optimizer"},
    "precision": {"choices": ("both", *cases.PRECISIONS), "help": "of athanor and plain"},
    "minutes": {"type": float, "help": "end within this time, with fewer rounds where it is short"},
    "epochs": {"type": int, "help": "of each run"},
    "images": {"type": int, "help": "use so many of the training images, including a tenth for validation"},
    "workers": {"help": "of the DataLoader: a number, or best, which tries 0, 1, 2, 4, 8, 16 up to the cores"},
    "matmul_precision": {"choices": ("highest", "high", "medium"), "help": "of athanor and plain; else automatic"},
}


def main() -> None:
    started = time.monotonic()
    options = parse_options()
    minutes = options.minutes or (9 if (options.case, options.device) == ("all", "gpu") else math.inf)
    options.longest, options.deadline = 20 * minutes, started + 60 * minutes
    results = {"machine": describe_machine(options), "cases": {}, "failures": {}}
    print(heading(results["machine"]), flush=True)
    comparisons = prepare(options, results["failures"])
    while comparison := next_in_turn(comparisons, options.deadline):
        try_round(comparison, results)
        write(results, options.json)  # each time: what is interrupted keeps the rounds that are done
    for comparison in comparisons:
        if comparison.rounds:
            print(comparison.text())
        else:
            results["failures"].setdefault(comparison.case, NO_TIME)
    if options.case == "all" and results["cases"]:
        print(f"\nfor the README:\n\n{for_readme(heading(results['machine'], ', '), results['cases'])}")
    write(results, options.json)
    print(f"\nload average at the end: {results['machine']['load_at_end']:.2f}", flush=True)
    for case, reason in results["failures"].items():
        print(f"{case} has failed: {reason}", file=sys.stderr)
    raise SystemExit(1 if results["failures"] else 0)


def prepare(options: argparse.Namespace, failures: dict[str, str]) -> list[Comparison]:
    """The comparisons of a case, or of all cases that make sense on the device. `failures` gets why some cannot be."""
    changes = ALL[options.device] if options.case == "all" else {options.case: {}}
    typed = {name: value for name, value in vars(options).items() if value is not None}
    comparisons = []
    for name, own in changes.items():
        make, defaults = CASES[name]
        try:
            comparisons += make(argparse.Namespace(**{**COMMON, **defaults, **own, **typed}))
        except (UserError, TimeoutError) as error:
            failures[name] = str(error) or NO_TIME
    return comparisons


def next_in_turn(comparisons: list[Comparison], deadline: float) -> Comparison | None:
    """The one that has done the smallest share of its rounds, of those for which another round is not too long."""
    now = time.monotonic()
    waiting = [c for c in comparisons if not c.has_ended and now + c.seconds < deadline]
    return min(waiting, key=lambda comparison: comparison.progress, default=None)


def try_round(comparison: Comparison, results: dict[str, Any]) -> None:
    """Measure another round, and note in `results` what was measured, or why it failed."""
    try:
        comparison.run_round()
        comparison.has_ended = comparison.progress == 1
        results["cases"][comparison.case] = comparison.results()
    except (UserError, TimeoutError) as error:
        comparison.has_ended = True
        if str(error):  # else its time was up, and the rounds that are done remain
            results["failures"][comparison.case] = str(error)


def write(results: dict[str, Any], path: Path | None) -> None:
    results["machine"]["load_at_end"] = os.getloadavg()[0]
    if path:
        path.write_text(json.dumps(results, indent=2) + "\n")


def parse_options() -> argparse.Namespace:
    """The command line. Raises UserError where a value makes no sense."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subcommands = parser.add_subparsers(dest="case", required=True, metavar="case", title="cases")
    described = {name: (measure.__doc__, defaults) for name, (measure, defaults) in CASES.items()}
    about = "The cases that make sense on the device, in turns, with their defaults; writes a JSON file in any case."
    described["all"] = (about, {"repeats": None, **LOADER, **MATMUL})
    for name, (about, defaults) in described.items():
        subcommand = subcommands.add_parser(name, help=about, description=about)
        for option, default in {**COMMON, **defaults}.items():
            about = OPTIONS[option]["help"] + ("" if default is None else f" (default {default})")
            flag = f"--{option.replace('_', '-')}"
            subcommand.add_argument(flag, default=default, **{**OPTIONS[option], "help": about})
    options = parser.parse_args()
    options.best_workers = {}  # by data set, once they have been found
    for name in "repeats", "threads", "epochs", "images", "minutes":
        value = getattr(options, name, None)
        if value is not None and not value > 0:
            raise UserError(f"--{name} {value}: use 1 or more")
    workers = getattr(options, "workers", "best")
    if workers != "best" and not workers.isdecimal():
        raise UserError(f"--workers {workers}: use a number from 0, or best")
    if options.json and not options.json.absolute().parent.is_dir():
        raise UserError(f"--json {options.json}: there is no folder {options.json.parent}")
    if options.case == "all" and options.json is None:
        options.json = Path("outputs/benchmark") / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{options.device}.json"
        options.json.parent.mkdir(parents=True, exist_ok=True)
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
        # asked by another process: Linux counts the memory of this process as that of those which it starts
        asked = subprocess.run([sys.executable, "-c", GPU], capture_output=True, text=True)
        if asked.returncode:
            raise UserError("--device gpu: torch finds no CUDA device on this machine; leave it out to measure the CPU")
        machine["gpu"], machine["cuda"] = asked.stdout.splitlines()
    return machine


def heading(machine: dict[str, Any], between: str = "\n") -> str:
    names = [name for name in ("torch", "cuda", "lightning", "torchvision", "python") if name in machine]
    versions = ", ".join(f"{name} {machine[name]}" for name in names)
    devices = f"{machine['gpu']}; {machine['cpu']}" if "gpu" in machine else machine["cpu"]
    return (
        f"{devices}, cores {machine['cores']}, threads a process {machine['threads']}, "
        f"load average {machine['load_at_start']:.2f}{between}{versions}"
    )


if __name__ == "__main__":
    command_line.start(main)
