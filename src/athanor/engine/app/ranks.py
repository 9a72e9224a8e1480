"""One process for each device: who starts them, which one writes, and what they agree on before torch connects them."""

import atexit
import functools
import itertools
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from athanor.base.errors import UserError
from athanor.engine.app import debugger
from athanor.engine.config import options
from athanor.engine.runs.run import Run
from athanor.training import devices
from athanor.training.signals import signals

PARENT = "ATHANOR_PARENT"  # the number of a pipe that is closed when the process that started this one ends
# What launchers set for each of several processes, the number of these first. A shell may have a part of it left over
# from another program, or from SLURM, whose batch scripts and interactive shells have SLURM_PROCID and SLURM_NTASKS.
TORCHRUN = ("WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
SRUN = ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID")
GRACE = 10  # seconds that the other processes have for a message of their own when one has died
questions = itertools.count()  # numbers what the processes agree on; all of them ask in the same order


def check_environment() -> None:
    """Raise UserError where variables of a launcher are left over: they say that this process is one of several."""
    names = [name for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE") if name in os.environ]
    for name in names:
        if not os.environ[name].isdigit():
            raise UserError(f"{name}={os.environ[name]} in the environment is no number; type unset {name}")
    if not started_elsewhere() and any(int(os.environ[name]) > (name == "WORLD_SIZE") for name in names):
        words = " ".join(f"{name}={os.environ[name]}" for name in names)
        all_of_them = f"{', '.join(TORCHRUN)}, with WORLD_SIZE above 1"
        raise UserError(f"{words} in the environment, and not {all_of_them}; type unset {' '.join(names)}")


def is_main_process() -> bool:
    """Whether this is the one process of the job that writes files and speaks."""
    # all of them: a RANK=0 that every process has inherited says nothing. WORLD_SIZE is deleted by Lightning at the end
    ranks = [os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK", "NODE_RANK")]
    return ranks == ["0"] * 3 and (not is_one_of_several(*SRUN) or os.environ["SLURM_PROCID"] == "0")


def started_elsewhere() -> bool:
    """Whether torchrun, srun or another scheduler has started one process for each device."""
    return is_one_of_several(*TORCHRUN) or is_one_of_several(*SRUN)


def is_one_of_several(world_size: str, *others: str) -> bool:
    """Whether the variable `world_size` is above 1 and the others are set as well."""
    number = os.environ.get(world_size, "")
    return number.isdigit() and int(number) > 1 and all(name in os.environ for name in others)


def spread(config: dict, directory: Path) -> bool:
    """Run the job of this directory in one process for each device, where there are several; returns whether it did.

    Each process reads the job's own config.yaml. Lightning would repeat our command line instead, which in a multirun
    would be a whole sweep in each process, with other values. This process only watches, so a process that dies ends
    its job, with the reason, and not the multirun. Raises ChildProcessError where no process could give a reason.
    """
    if PARENT in os.environ:
        threading.Thread(target=end_with_parent, args=(int(os.environ[PARENT]),), daemon=True).start()
    if started_elsewhere():
        atexit.register(disconnect)  # else threads of gloo may end the process with an error
    number = devices.count(config["trainer"])
    if number > 1 and debugger.is_asked():
        raise UserError("debug=pdb stops in one process; type trainer.devices=1")
    if started_elsewhere() and PARENT not in os.environ:
        refuse_other_number(number, config["trainer"].get("num_nodes") or 1)
    if number < 2 or "spawn" in str(config["trainer"]["strategy"]) or started_elsewhere():
        return False
    reading, writing = os.pipe()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]  # one that is free
    try:
        watch([start(rank, number, directory, reading, port) for rank in range(number)], directory)
    finally:
        os.close(writing)
        os.close(reading)
    return True


def refuse_other_number(devices: int, nodes: int) -> None:
    """Raise UserError where a launcher has not started one process for each device, of which each node has `devices`.

    Lightning would let several processes train the same run, each of them alone.
    """
    launcher, variable = ("torchrun", "WORLD_SIZE") if is_one_of_several(*TORCHRUN) else ("srun", SRUN[0])
    started = int(os.environ[variable])
    if started != devices * nodes:
        settings = f"trainer.devices={devices}" + (f" trainer.num_nodes={nodes}" if nodes > 1 else "")
        raise UserError(
            f"{launcher} has started {started} processes, and {settings} asks for {devices * nodes}\n"
            f"  start one process for each device, or type trainer=ddp trainer.devices={max(started // nodes, 1)}"
        )


def start(rank: int, number: int, directory: Path, pipe: int, port: int) -> subprocess.Popen:
    # without those of launchers: Lightning and torch would ask these about processes that only we have started
    strange = ("SLURM_", "TORCHELASTIC_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(strange)}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(number)}
    environment |= {"NODE_RANK": "0", "RANK": str(rank), "LOCAL_RANK": str(rank), PARENT: str(pipe)}
    command = [sys.executable, str(options.CONFIGS.parent / "train.py"), f"resume={directory}"]
    # in a session of its own, so that Ctrl-C reaches the watching process alone, which passes it on once
    return subprocess.Popen(command, env=environment, pass_fds=[pipe], start_new_session=True)


def watch(ranks: list[subprocess.Popen], directory: Path) -> None:
    """Wait for all processes to end and pass signals on; when one has died, end the others: they would wait for it."""
    signals.saves_at_step, passed_on, dead, deadline = True, None, None, math.inf
    try:
        while None in (codes := [rank.poll() for rank in ranks]) and time.monotonic() < deadline:
            if signals.asked and not passed_on:
                passed_on = signals.asked
                for rank in ranks:
                    rank.send_signal(passed_on)
            if dead is None and any(codes):
                dead, deadline = next(rank for rank in ranks if rank.returncode), time.monotonic() + GRACE
            time.sleep(0.05)
    finally:
        signals.saves_at_step = False
        for rank in ranks:
            rank.kill()
            rank.wait()
    if passed_on:
        signals.leave(passed_on)
    dead = dead or next((rank for rank in ranks if rank.returncode), None)
    # a process that raised an error has printed and recorded it
    if dead and (dead.returncode < 0 or Run(directory).results.get("status") != "failed"):
        code = dead.returncode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        how += ", perhaps as memory ran out" if code == -signal.SIGKILL else ""
        place = f"process {ranks.index(dead)} of {len(ranks)}"
        raise ChildProcessError(f"{place} {how}; go on with python train.py resume={directory}")


def disconnect() -> None:
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def end_with_parent(pipe: int) -> None:
    os.read(pipe, 1)  # returns when the pipe is closed: nothing is ever written into it
    os._exit(1)


def agreed(find: Callable[[], str], anew: bool = False) -> str:
    """The answer of the main process, in all processes that there are.

    torchrun keeps it when it starts the processes again, so they continue in the same directory; with `anew` it is
    found again.
    """
    if not started_elsewhere():
        return find()
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if anew else "0"
    store, key = meeting_place(), f"athanor/{restart}/{next(questions)}"
    if is_main_process() and not store.check([key]):
        store.set(key, find())
    return store.get(key).decode()


@functools.cache
def meeting_place():
    """The key-value store of this job, which torch also uses when it connects the processes."""
    from lightning.fabric.plugins.environments import SLURMEnvironment
    from torch.distributed import TCPStore

    if "MASTER_ADDR" not in os.environ:
        slurm = SLURMEnvironment(auto_requeue=False)
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = slurm.main_address, str(slurm.main_port)
    somebody_serves = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    serve = is_main_process() and not somebody_serves
    return TCPStore(*address, is_master=serve, multi_tenant=True, wait_for_workers=False)
