"""Files of a run: a reader, or a run after a crash, never meets half a file, and none is written outside its folder.

A run's folder may come from anybody, and a symbolic link in it leads elsewhere. So `refuse_links` looks at a folder
before anything in it is used, and what is written is a new file, or is appended to a file that is no link.
"""

import os
import shutil
import stat
from pathlib import Path
from typing import Any, BinaryIO

from athanor.base.errors import UserError
from athanor.base.text import csv_text

NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # Windows lacks it; making links takes the rights of an administrator there
LOGGER_FOLDERS = ("wandb",)  # which make links of their own, in which nothing else reads or writes


def refuse_links(folder: Path) -> None:
    """Raise UserError where a link below `folder`, which may be one itself, leads out of it, or a file is none to read.

    A link that leads elsewhere within the folder does no harm, and a pipe or a device would be waited for without end.
    """
    root = folder.resolve()
    for above, folders, files in os.walk(root):
        for path in (Path(above, name) for name in (*folders, *files)):
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode) and not path.resolve().is_relative_to(root):
                raise UserError(
                    f"{path} is a link that leads out of {folder}, and a run may have none\n"
                    "  copy what it leads to in its place, or remove it"
                )
            if not (stat.S_ISLNK(mode) or stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise UserError(f"{path} is neither a file nor a folder; remove it")
        folders[:] = [name for name in folders if name not in LOGGER_FOLDERS]


def open_new(path: Path) -> BinaryIO:
    """A new file to write to. What had its name, such as a link or the rest of a killed process, is removed."""
    path.unlink(missing_ok=True)
    return open(path, "xb")


def append(path: Path, text: str) -> None:
    """Append a text to a file, which is made where it is missing. Raises OSError where it is a link."""
    with open(path, "a", encoding="utf-8", opener=lambda name, flags: os.open(name, flags | NO_LINK, 0o666)) as file:
        file.write(text)


def write_atomically(path: Path, contents: str | bytes) -> None:
    """Write a file beside its target and rename it: a reader, or a process that is killed, has all old or all new.

    Raises OSError where the disk refuses; the target is then what it was.
    """
    part = part_of(path)
    try:
        with open_new(part) as file:
            file.write(contents.encode() if isinstance(contents, str) else contents)
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
