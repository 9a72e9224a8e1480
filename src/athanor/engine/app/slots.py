"""The share that a job of a sweep on this machine has of its GPUs, and its end together with the sweep."""

import os
import re
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock


@dataclass(frozen=True)
class Slot:
    """gpus: for CUDA_VISIBLE_DEVICES; None where the job sees what this process sees. lock: held by the sweep."""

    gpus: str | None
    lock: Path


def enter(slot: Slot) -> None:
    """Take the place of a job: see its share of the GPUs, and save and end, as with Ctrl-C, when its sweep ends.

    Ctrl-C in a terminal reaches all processes of the terminal, and a second one ends a run without saving: so this one
    leaves the terminal.
    """
    if hasattr(os, "setsid"):  # Windows lacks it
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the sweep has started this process without it
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # with which submitit hides all GPUs from its jobs
    if slot.gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = slot.gpus
    threading.Thread(target=end_with_sweep, args=(slot.lock,), daemon=True).start()


def end_with_sweep(lock: Path) -> None:
    with FileLock(lock).acquire(poll_interval=0.5):
        os.kill(os.getpid(), signal.SIGINT)


def visible_gpus() -> str | None:
    """The GPUs as CUDA_VISIBLE_DEVICES names them, found without torch, which takes seconds to import; None where
    nothing says which there are.
    """
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return os.environ["CUDA_VISIBLE_DEVICES"]
    matches = [re.fullmatch(r"nvidia(\d+)", name) for name in os.listdir("/dev")] if os.path.isdir("/dev") else []
    return ",".join(sorted((match[1] for match in matches if match), key=int)) or None


def share_of(gpus: str | None, number: int, jobs: int) -> str | None:
    """A slot's part of the GPUs; where there are fewer GPUs than jobs, one that several slots share."""
    names = [name for name in (gpus or "").split(",") if name]
    if len(names) <= jobs:
        return names[number % len(names)] if names else gpus
    return ",".join(names[number * len(names) // jobs : (number + 1) * len(names) // jobs])
