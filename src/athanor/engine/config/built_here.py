"""A list, outside any run, of the configs and sweeps that were composed by this person, from their own configs/ and
words. A run that is not in it is treated as sent by somebody.

A digest names what was composed, not where it lies: a run may be moved, and its config is also in its checkpoints and
in ensembles of them. One that somebody else sends with the very same contents can only do what the person asked for.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path

from athanor.base import files
from athanor.engine.config.settings import REMARKS

VARIABLE = "ATHANOR_BUILT"  # the digests of this process, for those that it starts, also where nobody has a home
CHANGING = ("resume", "run", *REMARKS)  # in a config, on which nothing depends that is built


def add(composed: object) -> None:
    """List a config or the words of a sweep, in plain values. Without a home that can be written to, this process and
    those that it starts alone will know.
    """
    if is_listed(composed):
        return
    name = digest(composed)
    os.environ[VARIABLE] = f"{os.environ.get(VARIABLE, '')} {name}"
    with contextlib.suppress(OSError, RuntimeError):
        path = place()
        path.parent.mkdir(parents=True, exist_ok=True)
        files.append(path, f"{name}\n")


def is_listed(composed: object) -> bool:
    name = digest(composed)
    listed = os.environ.get(VARIABLE, "").split()
    with contextlib.suppress(OSError, RuntimeError):
        listed += place().read_text(encoding="utf-8").split()
    return name in listed


def place() -> Path:
    """The file with the list. Raises RuntimeError where there is no home."""
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "athanor" / "built_here.txt"


def digest(composed: object) -> str:
    if isinstance(composed, dict):
        composed = {key: value for key, value in composed.items() if key not in CHANGING}
    return hashlib.sha256(json.dumps(composed, sort_keys=True, default=str).encode()).hexdigest()
