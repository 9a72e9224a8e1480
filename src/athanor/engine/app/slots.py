"""Limits how many jobs of a sweep run at a time on this machine, and gives each its share of the GPUs."""

import os
import re
import signal
import threading
import time
from pathlib import Path

from filelock import FileLock, Timeout

GPUS = "ATHANOR_GPUS"  # environment variable: the GPUs that the jobs share
SWEEP = "ATHANOR_SWEEP"  # environment variable: the number of the process that waits for the jobs


def take(sweep: Path, jobs: int) -> FileLock:
    """Wait until fewer than `jobs` others of this sweep run, and make the GPUs of the free slot visible.

    The slot is held until this process ends, in whatever way. When the process of the sweep has ended, this one saves
    and ends as with Ctrl-C.
    """
    threading.Thread(target=end_with_sweep, daemon=True).start()
    folder = sweep / ".slots"
    folder.mkdir(exist_ok=True)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell sets it for commands in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    while True:
        for number in range(jobs):
            lock = FileLock(folder / f"{number}.lock")
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            share = share_of(os.environ.get(GPUS, ""), number, jobs)
            if share:  # submitit hides all GPUs from its jobs
                os.environ["CUDA_VISIBLE_DEVICES"] = share
            return lock
        time.sleep(0.2)


def end_with_sweep() -> None:
    sweep = int(os.environ[SWEEP])
    while is_alive(sweep):
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGINT)


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # the number belongs to a process of somebody else by now
        return False
    return True


def visible_gpus() -> str:
    """The GPUs as CUDA_VISIBLE_DEVICES names them, found without torch, which takes seconds to import."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return os.environ["CUDA_VISIBLE_DEVICES"]
    matches = [re.fullmatch(r"nvidia(\d+)", name) for name in os.listdir("/dev")] if os.path.isdir("/dev") else []
    return ",".join(sorted((match[1] for match in matches if match), key=int))


def share_of(gpus: str, number: int, jobs: int) -> str:
    """A slot's part of the GPUs; where there are fewer GPUs than jobs, one that several slots share."""
    names = [name for name in gpus.split(",") if name]
    if len(names) <= jobs:
        return names[number % len(names)] if names else ""
    return ",".join(names[number * len(names) // jobs : (number + 1) * len(names) // jobs])
