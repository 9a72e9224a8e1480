"""A new directory for a run, a sweep or a script's results, that no other process has."""

import contextlib
import itertools
from pathlib import Path

from athanor.base.errors import UserError
from athanor.base.text import file_name


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
