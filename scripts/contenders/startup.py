"""From the start of `python train.py ...` to its first training step: how long which imports and which work take.

benchmark.py puts the time at which it started the process into the environment. Imports are timed module by module,
each without those that it imports itself, and added up by package. Every span is measured by one clock, so that the
spans add up to the whole.
"""

import os
import runpy
import sys
import time
from collections.abc import Callable
from importlib.machinery import ExtensionFileLoader, SourceFileLoader
from pathlib import Path

from contenders.clock import Clock

TRAIN = Path(__file__).resolve().parents[2] / "train.py"

clock = Clock("Hydra: compose, run directory")


def main() -> None:
    clock.seconds["start Python"] = time.time() - float(os.environ["ATHANOR_BENCHMARK_STARTED"])
    sys.argv = [str(TRAIN), *sys.argv[1:]]
    # what runs the code of a module, and what loads the library of a compiled one
    for loader in SourceFileLoader, ExtensionFileLoader:
        for method in "create_module", "exec_module":
            setattr(loader, method, timed_import(getattr(loader, method)))
    time_work()
    runpy.run_path(str(TRAIN), run_name="__main__")


def timed_import(load: Callable) -> Callable:
    """A method of a module loader, with a span for each package around it."""

    def wrapper(loader: object, module: object) -> object:
        name = getattr(module, "__name__", None) or module.name  # a module, or the specification of one
        return clock.timed(f"import {name.partition('.')[0]}", load)(loader, module)

    return wrapper


def time_work() -> None:
    """Import what builds a run before train.py does, and give its functions a span each."""
    from lightning.pytorch import Trainer

    from athanor.engine.app.job import Job
    from athanor.engine.config import assemble

    for owner, name, span in (
        (Job, "save_config", "check the config"),
        (assemble, "data", "build data"),
        (assemble, "classifier", "build classifier"),
        (assemble, "trainer", "build trainer, loggers"),
        (Trainer, "fit", "fit set-up"),
    ):
        setattr(owner, name, clock.timed(span, getattr(owner, name)))


def report_and_exit() -> None:
    """Write the report and end the process, whatever the run would do next."""
    from contenders import task

    task.write_report({"rows": clock.snapshot()})
    os._exit(0)
