"""One process for each measurement: its wall time, its peak memory and the report.json that it wrote."""

import json
import math
import os
import pty
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from athanor.base.errors import UserError

SCRIPTS = Path(__file__).resolve().parents[1]
RSS_UNITS_PER_KIB = 2**10 if sys.platform == "darwin" else 1  # ru_maxrss is in bytes on macOS and in KiB on Linux


def measure_process(command: list[str], threads: int, seconds: float = math.inf) -> dict[str, Any]:
    """The report of `python <command>`, with its wall time command_s in seconds and its peak memory peak_mb in MiB.

    The process runs in a temporary folder of its own. It has a pseudo-terminal, so that progress bars are drawn: they
    are part of what a contender costs. Raises UserError where the process fails, and TimeoutError where it takes longer
    than so many seconds.
    """
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        terminal, end = pty.openpty()
        started = time.time()
        variables = {
            **os.environ,
            **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)),
            "PYTHONPATH": os.pathsep.join([str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "ATHANOR_DATA": str(data_dir()),
            "TERM": "xterm-256color",
        }
        words = [sys.executable, *command]
        # a group of its own, which the workers of a DataLoader belong to as well
        process = subprocess.Popen(words, cwd=folder, env=variables, stdin=end, stdout=end, stderr=end, process_group=0)
        os.close(end)
        alarm = threading.Timer(min(seconds, threading.TIMEOUT_MAX), os.killpg, (process.pid, signal.SIGKILL))
        alarm.start()
        try:
            output = read_until_closed(terminal)
            _, status, usage = os.wait4(process.pid, 0)  # unlike process.wait(), it tells the peak memory
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        finally:
            alarm.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        elapsed = time.time() - started
        if process.returncode:
            is_late = process.returncode == -signal.SIGKILL and elapsed >= seconds
            raise TimeoutError if is_late else UserError(failure_message(command, output))
        path = Path(folder) / "report.json"
        report = json.loads(path.read_text()) if path.is_file() else {}
        return {**report, "command_s": elapsed, "peak_mb": usage.ru_maxrss / RSS_UNITS_PER_KIB / 2**10}


def data_dir() -> Path:
    """The folder of the data sets, absolute, because contenders run elsewhere."""
    return Path(os.environ.get("ATHANOR_DATA") or "~/.cache/athanor").expanduser().absolute()


def read_until_closed(terminal: int) -> str:
    """The end of what is written to a terminal until the last process that has it open is gone."""
    parts: list[bytes] = []
    with open(terminal, "rb", buffering=0) as file:
        try:
            while part := file.read(2**16):
                parts = [*parts[-100:], part]
        except OSError:  # Linux raises it when no process has the terminal open any more
            pass
    return b"".join(parts).decode(errors="replace")


def failure_message(command: list[str], output: str) -> str:
    """The error that the process printed, or its last line where there is none, and the command."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["it printed nothing"]
    sentence = next((line for line in lines if line.startswith("error: ")), lines[-1])
    return f"{sentence.removeprefix('error: ')}\n  in PYTHONPATH=scripts python {shlex.join(command)}"
