"""What a person may write into control.yaml, and what is said of anything else."""

import math
import reprlib
from collections.abc import Callable
from pathlib import Path

import yaml

from athanor.base.errors import nearest

LIMIT = 10_000  # bytes
VALUES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "lr": ("a number above 0", lambda value: value > 0),
    "momentum": ("a number from 0 to below 1", lambda value: 0 <= value < 1),
    "weight_decay": ("a number, 0 or more", lambda value: value >= 0),
}
REQUESTS = ("checkpoint", "validate", "stop")
MARKS = (yaml.AnchorToken, yaml.AliasToken, yaml.TagToken, yaml.DirectiveToken)


def read(path: Path) -> dict[str, float | bool]:
    """The file's keys and values. Raises ValueError where something in it is wrong."""
    if not path.is_file():
        raise ValueError("it is no file")
    with open(path, "rb") as file:
        content = file.read(LIMIT + 1)
    if len(content) > LIMIT:
        raise ValueError(f"it has more than {LIMIT:,} bytes")
    try:
        found = parsed(content.decode())
    except UnicodeDecodeError:
        raise ValueError("it is no text") from None
    if found in ("", None):
        return {}
    if not isinstance(found, dict):
        raise ValueError(f"{reprlib.repr(found)} is no line of key: value, as in lr: 0.01")
    return {key: checked(key, value) for key, value in found.items()}


def parsed(text: str) -> object:
    """Strings, and lists and mappings of strings: YAML's own idea of a number misses 1e-3, and takes 010 for 8."""
    try:
        marked = any(isinstance(token, MARKS) for token in yaml.scan(text))
        found = None if marked else yaml.load(text, yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        place = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        raise ValueError(f"{error.problem}{place}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError("it is not YAML") from error
    if marked:
        raise ValueError("it has an anchor, an alias or a tag; write lines of key: value, as in lr: 0.01")
    return found


def checked(key: str, value: object) -> float | bool:
    if key in REQUESTS:
        if value not in ("true", "false"):
            raise ValueError(f"{key}: {reprlib.repr(value)} is neither true nor false")
        return value == "true"
    if key not in VALUES:
        raise ValueError(f"there is no {reprlib.repr(key)}; {nearest(key, [*VALUES, *REQUESTS])}")
    allowed, is_allowed = VALUES[key]
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and is_allowed(number)):
        raise ValueError(f"{key}: {reprlib.repr(value)} is not {allowed}")
    return number
