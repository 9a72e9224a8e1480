"""Small files that are whole at any moment."""

import os
from pathlib import Path


def replace(path: Path, text: str) -> None:
    """Written beside its target, and then renamed: who reads, or is killed, has the old text or the new one."""
    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_text(text)
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)  # half a file on a full disk is in the way
        raise
