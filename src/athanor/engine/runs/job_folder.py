"""The folders of a sweep's jobs: a number, and what the job has that others have not, as 0_lr=0.1_width=64."""

import re
from collections.abc import Iterable
from pathlib import Path

from athanor.base.text import file_name

LONGEST, LONGEST_VALUE = 80, 32  # letters of a name, and of a value in it


def job_folder(sweep: str | Path, number: int, words: Iterable[str], varied: Iterable[str]) -> str:
    """The name of the folder of a job: that of this number where there is one, so that a sweep can be resumed.

    words: the settings of the job as they were typed. varied: keys of those in which jobs differ. A key is its last
    part, as lr of optim.lr, where that tells it from the others. The number alone makes the name one of its own, so
    what is too long is cut: of a value the beginning, as of a path, and of the whole name the last settings.
    """
    for path in (Path(sweep) / str(number), *Path(sweep).glob(f"{number}_*")):
        if path.is_dir() and re.fullmatch(r"[\w.=-]+", path.name):  # Hydra would resolve a name with ${...} in it
            return path.name
    values = dict(word.lstrip("+").partition("=")[::2] for word in words)
    keys = [key for key in varied if key in values]
    short = [re.split("[./@:]", key)[-1] for key in keys]
    name = str(number)
    for key, last in zip(keys, short, strict=True):
        part = f"_{file_name(last if short.count(last) == 1 else key)}={value_name(values[key])}"
        if len(name + part) > LONGEST:
            break
        name += part
    return name


def value_name(text: str) -> str:
    """A value as part of a file's name: [256,32] as 256-32, 0.0123456789 as 0.01235."""
    text = text.strip("'\"[](){} ")
    if len(text) > 8 and re.fullmatch(r"-?\d*\.?\d+(e[+-]?\d+)?", text) and not text.isdecimal():
        text = f"{float(text):.4g}"
    return file_name(text.replace("+", ""))[-LONGEST_VALUE:].rstrip(".-")


def job_number(folder: Path) -> int:
    """The number of the job whose folder this is; -1 of a folder that is none."""
    number = folder.name.partition("_")[0]
    return int(number) if number.isascii() and number.isdecimal() else -1
