"""Writing files so that they are complete at any moment."""

import os
from pathlib import Path


def write_atomically(path: Path, contents: str | bytes) -> None:
    """Write a file beside its target and rename it: a reader, or a process that is killed, has all old or all new.

    Raises OSError where the disk refuses; the target is then what it was.
    """
    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_bytes(contents.encode() if isinstance(contents, str) else contents)
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)  # on a full disk the incomplete file would stay in the way
        raise
