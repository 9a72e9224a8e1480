"""Watches a process's operations on the files of a run, and kills the process at one of them.

A place is an operation, the file that it changes, and the lines of our code that lead to it. Imports nothing heavy: the
processes that a run starts load it before anything else, as `sitecustomize`.
"""

import json
import os
import re
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

PLAN = "ATHANOR_TORTURE"  # environment variable: a Plan as JSON
REPO = str(Path(__file__).resolve().parents[2])
OURS = (f"{REPO}{os.sep}src{os.sep}", f"{REPO}{os.sep}train.py")
CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND  # flags of an open that may change a file
EVENTS = ("open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
NOT_OURS = ("control.yaml", ".pyc")  # names of files that a person writes, and of Python's own


def watch(plan: dict[str, Any]) -> None:
    """Append each place to the file `trace`, and kill this process where it comes to one.

    plan: `folder`, that of the run; `trace`; and `kill`, null or {place, nth, opened}: the place, at which of the times
    that this process comes to it, counted from 1, and whether after the file has been opened, so that it is empty.
    """
    folder, kill = plan["folder"], plan["kill"] or {}
    trace = os.open(plan["trace"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    counts: Counter[str] = Counter()
    busy = threading.local()
    process = f"process {os.environ['RANK']}: " if "ATHANOR_PARENT" in os.environ else ""

    def operation(event: str, arguments: tuple) -> None:
        if event not in EVENTS or getattr(busy, "is_here", False):
            return
        busy.is_here = True
        try:
            target = changed_file(event, arguments, folder)
            if target is None:
                return
            place = f"{process}{event} {target}: {calls(sys._getframe(1))}"
            counts[place] += 1
            os.write(trace, (json.dumps([place, may_be_new(event, arguments)]) + "\n").encode())
            if place == kill.get("place") and counts[place] == kill["nth"]:
                if kill["opened"]:
                    os.close(os.open(arguments[0], arguments[2], 0o644))
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            busy.is_here = False

    sys.addaudithook(operation)


def changed_file(event: str, arguments: tuple, folder: str) -> str | None:
    """The file in the run's folder that an operation changes, relative to it, with # for numbers; else None."""
    if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & CHANGES):
        return None
    # of a renaming or a link, the new name
    paths = [
        os.path.abspath(os.fsdecode(path)) for path in arguments[:2] if isinstance(path, (str, bytes, os.PathLike))
    ]
    path = paths[-1] if event in ("os.rename", "os.link") else paths[0] if paths else ""
    if not (path == folder or path.startswith(folder + os.sep)) or path.endswith(NOT_OURS):
        return None
    name = re.sub(r"events\.out.*", "events", os.path.relpath(path, folder))
    return re.sub(r"[0-9a-f]{16}|\d+", "#", name)


def may_be_new(event: str, arguments: tuple) -> bool:
    """Whether an operation opens a file which it makes or empties."""
    return event == "open" and bool(arguments[2] & os.O_TRUNC or not os.path.exists(arguments[0]))


def calls(frame: FrameType | None) -> str:
    """The lines of our code on the way to this frame, the innermost first; of a library's thread, its two innermost."""
    lines, library = [], []
    while frame:
        name = frame.f_code.co_filename
        is_ours = name.startswith(OURS)
        short = os.path.relpath(name, REPO) if is_ours else "/".join(name.split(os.sep)[-2:])
        (lines if is_ours else library).append(f"{short}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(lines or library[:2])


def simulate_person(edits: dict[int, str], folder: str) -> None:
    """Let control.yaml be, at each step, the text of the last edit at that step or before: a person whose edits come at
    the same steps in each run. The time of the file goes with the text.
    """
    from athanor.callbacks import control

    path, original = Path(folder, "control.yaml"), control.Control.on_train_batch_start
    control.INTERVAL = 0.0

    def edit(self: control.Control, trainer: Any, *arguments: Any) -> None:
        step = max(step for step in edits if step <= trainer.global_step)
        path.write_text(edits[step])
        os.utime(path, (1 + step, 1 + step))
        original(self, trainer, *arguments)

    control.Control.on_train_batch_start = edit


def simulate_clock() -> None:
    """Let the clock of trainer.max_time tick once a batch, so that a run ends at the same batch each time."""
    from lightning.pytorch.callbacks import timer

    now, original = [0.0], timer.Timer.on_train_batch_end
    timer.time = SimpleNamespace(monotonic=lambda: now[0])

    def tick(self: timer.Timer, *arguments: Any, **keywords: Any) -> None:
        now[0] += 1
        original(self, *arguments, **keywords)

    timer.Timer.on_train_batch_end = tick


def record_operations(path: str) -> None:
    """Append each optimizer step to a file, as a line of JSON: number, operations and hashes of their results."""
    from athanor.base.lightning_internals import computed
    from athanor.tasks.task import Task

    original = Task.optimizer_step

    def step(self: Task, *arguments: Any, **keywords: Any) -> None:
        number = self.trainer.global_step
        operations = computed(lambda: original(self, *arguments, **keywords))
        with open(path, "a") as file:
            file.write(json.dumps([number, operations]) + "\n")

    Task.optimizer_step = step


if PLAN in os.environ:  # in a process that the run has started
    watch(json.loads(os.environ[PLAN]))
