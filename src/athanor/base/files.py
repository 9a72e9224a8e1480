"""Small files that are whole at any moment."""

import os
from pathlib import Path


def replace(path: Path, contents: str | bytes) -> None:
    """Written beside its target, and then renamed: who reads, or is killed, has the old contents or the new ones."""
    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_bytes(contents.encode() if isinstance(contents, str) else contents)
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)  # half a file on a full disk is in the way
        raise
