"""A directory for a run, a sweep or a script's results, that no other process has."""

import contextlib
import itertools
import sys
from pathlib import Path

from filelock import FileLock, Timeout

from athanor.base.errors import UserError
from athanor.base.text import file_name
from athanor.engine.runs.run import shown


def claim(path: str) -> str:
    """Make a directory and give its path: `path`, or `path` with -2, -3, ... where that exists already.

    Its name is made one of a file, see `file_name`. Raises UserError where it cannot be made.
    """
    wanted = Path(path)
    if not wanted.name:
        raise UserError(f"hydra.run.dir={path!r} is no new folder; type hydra.run.dir=<folder>")
    wanted = wanted.with_name(file_name(wanted.name))
    try:
        wanted.parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            directory = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
            with contextlib.suppress(FileExistsError):
                directory.mkdir()
                return str(directory)
    except OSError as error:
        raise UserError(f"cannot make the run's directory {wanted}: {error.strerror}; set hydra.run.dir") from error


def hold(lock: FileLock, directory: Path) -> None:
    """Hold the lock of a run's directory, or end this process where another one trains in it."""
    try:
        lock.acquire(blocking=False)
    except Timeout:  # not an exception, because the run that is under way has not failed
        print(f"error: {shown(directory)} is being trained by another process; wait for it, or end it", file=sys.stderr)
        raise SystemExit(1) from None
