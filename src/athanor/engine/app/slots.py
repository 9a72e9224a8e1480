"""So many jobs at a time on this machine, each with its share of the GPUs."""

import os
import re
import signal
import threading
import time
from pathlib import Path

from filelock import FileLock, Timeout

GPUS = "ATHANOR_GPUS"  # those that jobs share
SWEEP = "ATHANOR_SWEEP"  # the process that waits for them


def take(sweep: Path, jobs: int) -> FileLock:
    """Wait until fewer than `jobs` others of this sweep run, and see the GPUs of the slot that is free.

    The slot is held until this process ends, however it does. It ends as with Ctrl-C, saved, where the sweep has ended.
    """
    threading.Thread(target=end_with_sweep, daemon=True).start()
    folder = sweep / ".slots"
    folder.mkdir(exist_ok=True)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell leaves it for what it starts in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    while True:
        for number in range(jobs):
            lock = FileLock(folder / f"{number}.lock")
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            share = share_of(os.environ.get(GPUS, ""), number, jobs)
            if share:  # submitit hides all
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
    except PermissionError:  # somebody else's by now
        return False
    return True


def visible_gpus() -> str:
    """As CUDA_VISIBLE_DEVICES names them; asked without torch, which takes seconds to import."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return os.environ["CUDA_VISIBLE_DEVICES"]
    found = [re.fullmatch(r"nvidia(\d+)", name) for name in os.listdir("/dev")] if os.path.isdir("/dev") else []
    return ",".join(sorted((match[1] for match in found if match), key=int))


def share_of(gpus: str, number: int, jobs: int) -> str:
    """Of as many GPUs as jobs or more, a part for each; of fewer, one that some have to share."""
    names = [name for name in gpus.split(",") if name]
    if len(names) <= jobs:
        return names[number % len(names)] if names else ""
    return ",".join(names[number * len(names) // jobs : (number + 1) * len(names) // jobs])
