"""From the start of `python train.py ...` to its first training step: which imports and which work take how long.

benchmark.py puts the time at which it started the process into the environment. Imports are timed module by module,
each without those that it imports itself, and summed by package.
"""

import importlib._bootstrap_external as bootstrap
import os
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from contenders.clock import Clock

STARTED = "ATHANOR_BENCHMARK_STARTED"
TRAIN = Path(__file__).resolve().parents[2] / "train.py"
WORK = {  # module -> what it is made of that has a row
    "athanor.engine.app.job": {"Job.save_config": "check the config"},
    "athanor.engine.config.assemble": {
        "data": "build data",
        "classifier": "build classifier",
        "trainer": "build trainer, loggers",
    },
    "lightning.pytorch.trainer.trainer": {"Trainer.fit": "fit set-up"},
}

clock = Clock("Hydra: compose, run directory")


def main() -> None:
    clock.seconds["start Python"] = time.time() - float(os.environ[STARTED])
    time_imports()
    sys.argv = [str(TRAIN), *sys.argv[1:]]
    runpy.run_path(str(TRAIN), run_name="__main__")


def time_imports() -> None:
    """Wrap what runs a module's code, and what loads a compiled one's library."""
    for loader, method in (
        (bootstrap._LoaderBasics, "exec_module"),
        (bootstrap.ExtensionFileLoader, "create_module"),
        (bootstrap.ExtensionFileLoader, "exec_module"),
    ):
        setattr(loader, method, timed_load(getattr(loader, method)))


def timed_load(load: Callable) -> Callable:
    def wrapper(loader: object, what: object) -> object:
        name = getattr(what, "__name__", None) or what.name  # a module, or the spec of one
        clock.enter(f"import {name.partition('.')[0]}")
        try:
            return load(loader, what)
        finally:
            clock.leave()
            if name in WORK and isinstance(what, ModuleType):
                time_work(what)

    return wrapper


def time_work(module: ModuleType) -> None:
    for path, span in WORK[module.__name__].items():
        owner, _, name = path.rpartition(".")
        holder = getattr(module, owner) if owner else module
        setattr(holder, name, clock.timed(span, getattr(holder, name)))


def finish() -> None:
    """Write the report and end, whatever the run would do next."""
    import json

    rows = clock.snapshot()
    Path("report.json").write_text(json.dumps({"rows": rows}))
    os._exit(0)
