"""One process a measurement: its wall time, its peak memory and the report.json that it wrote."""

import json
import os
import pty
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from athanor.base.errors import UserError

SCRIPTS = Path(__file__).resolve().parents[1]
MAXRSS = 2**10 if sys.platform == "darwin" else 1  # that of Linux counts in KiB


def run(command: list[str], threads: int) -> dict[str, Any]:
    """The report of `python <command>`, which runs in a folder of its own and believes to be at a terminal."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        terminal, end = pty.openpty()  # progress bars are drawn there, and are part of what a contender costs
        began = time.time()
        process = subprocess.Popen(
            [sys.executable, *command], cwd=folder, env=environment(threads, began), stdin=end, stdout=end, stderr=end
        )
        os.close(end)
        said: list[bytes] = []
        reader = threading.Thread(target=drain, args=(terminal, said))
        reader.start()
        peak = wait(process)
        seconds = time.time() - began
        reader.join()
        if process.returncode:
            raise UserError(failure(command, b"".join(said).decode(errors="replace")))
        report = Path(folder) / "report.json"
        found = json.loads(report.read_text()) if report.is_file() else {}
        return {**found, "command_s": seconds, "peak_mb": peak}


def wait(process: subprocess.Popen) -> float:
    """The most MiB that the process had in memory; unlike process.wait(), os.wait4 says it."""
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.kill()
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_maxrss / MAXRSS / 2**10


def environment(threads: int, began: float) -> dict[str, str]:
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join([str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "ATHANOR_DATA": str(data_dir()),  # absolute: the process runs elsewhere
        "ATHANOR_BENCHMARK_STARTED": repr(began),
        "TERM": "xterm-256color",
    }


def data_dir() -> Path:
    return Path(os.environ.get("ATHANOR_DATA") or "~/.cache/athanor").expanduser().absolute()


def drain(terminal: int, said: list[bytes]) -> None:
    """Read a terminal until its last process is gone, and keep the end of what was said."""
    while True:
        try:
            part = os.read(terminal, 2**16)
        except OSError:  # Linux's way to say that nobody writes any more
            part = b""
        if not part:
            break
        said.append(part)
        del said[:-100]
    os.close(terminal)


def failure(command: list[str], said: str) -> str:
    """The child's own sentence where it has one, else its last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["it said nothing"]
    sentence = next((line for line in lines if line.startswith("error: ")), lines[-1])
    return f"{sentence.removeprefix('error: ')}\n  in PYTHONPATH=scripts python {shlex.join(command)}"
