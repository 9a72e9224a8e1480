"""Writing, linking and syncing files such that a reader, or a run after a crash, never meets half a file."""

import os
import shutil
from pathlib import Path
from typing import Any

from athanor.base.text import csv_text


def write_atomically(path: Path, contents: str | bytes) -> None:
    """Write a file beside its target and rename it: a reader, or a process that is killed, has all old or all new.

    Raises OSError where the disk refuses; the target is then what it was.
    """
    part = part_of(path)
    try:
        part.write_bytes(contents.encode() if isinstance(contents, str) else contents)
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)  # on a full disk the incomplete file would stay in the way
        raise


def part_of(path: Path) -> Path:
    """The name under which a file is written before it is renamed to `path`."""
    return path.with_name(f".{path.name}.part")


def hard_link(source: Path, target: Path) -> None:
    """Make `target` a second name of the file `source`, or a copy where the file system has no hard links."""
    if target.exists() and target.samefile(source):
        return  # os.replace of two names of one file does nothing, and would leave the part behind
    part = part_of(target)
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:
        shutil.copy2(source, part)
    os.replace(part, target)


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk; without it a power cut may undo a renaming. Windows cannot do it."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as CSV under the keys of them all, in the order in which they first occur; see `write_atomically`."""
    heads = list(dict.fromkeys(key for row in rows for key in row))
    write_atomically(path, csv_text([heads, *([row.get(head, "") for head in heads] for row in rows)]))
