"""One process per device, each with this job's own config, from any launcher and in a multirun."""

import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "NODE_RANK", "LOCAL_RANK")
EXTERNAL = ("LOCAL_RANK", "TORCHELASTIC_RUN_ID", "SLURM_NTASKS")  # somebody else starts the processes


def is_main_process() -> bool:
    return int(os.environ.get("LOCAL_RANK", 0)) == 0


@contextmanager
def local_ranks(trainer: dict, directory: Path) -> Iterator[None]:
    """Start the other processes of a ddp job; they join as Lightning finds LOCAL_RANK in their environment.

    Each reads this job's config.yaml. Lightning would repeat our command line instead, which in a multirun is a sweep
    of its own, with other values on each rank.
    """
    devices = count(trainer)
    if devices < 2 or "spawn" in str(trainer["strategy"]) or any(name in os.environ for name in EXTERNAL):
        yield
        disconnect()
        return
    address = dict(zip(VARIABLES, ("127.0.0.1", str(free_port()), str(devices), "0", "0"), strict=True))
    os.environ.update(address)
    command = [sys.executable, os.path.abspath(sys.argv[0]), f"resume={directory}"]
    ranks = [subprocess.Popen(command, env={**os.environ, "LOCAL_RANK": str(n)}) for n in range(1, devices)]
    done = threading.Event()
    threading.Thread(target=watch, args=(ranks, done, directory), daemon=True).start()
    try:
        yield
        for rank in ranks:
            if rank.wait(timeout=60):
                raise RuntimeError(f"a process of this ddp job ended with code {rank.returncode}")
    finally:
        done.set()
        for rank in ranks:
            rank.kill()
            rank.wait()
        disconnect()
        for name in VARIABLES:  # the next job of a multirun starts afresh
            os.environ.pop(name, None)


def watch(ranks: list[subprocess.Popen], done: threading.Event, directory: Path) -> None:
    """A process that waits for a dead one in a collective operation waits for ever, so end this one too."""
    while not done.wait(0.5):
        dead = [rank for rank in ranks if rank.poll()]
        if dead and not done.wait(5):  # time for an exception of our own, which says more
            log.error("a process of this ddp job ended with code %s; see above", dead[0].returncode)
            for rank in ranks:
                rank.kill()
            os._exit(1)


def disconnect() -> None:
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def count(trainer: dict) -> int:
    devices = trainer["devices"]
    if isinstance(devices, list):
        return len(devices)
    if devices in ("auto", -1, "-1"):
        import torch

        on_cpu = trainer["accelerator"] == "cpu" or not torch.cuda.is_available()
        return 1 if on_cpu else torch.cuda.device_count()
    return int(devices)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
