"""Writing files so that they are complete at any moment."""

import csv
import io
import os
from pathlib import Path
from typing import Any


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


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as CSV under the keys of them all, in the order in which they first occur; see `write_atomically`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())
