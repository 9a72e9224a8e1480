"""Reads control.yaml: which keys and values a person may write into it, and the message for anything else."""

import math
import reprlib
from collections.abc import Callable
from pathlib import Path

import yaml

from athanor.base.errors import UserError, nearest, require

MAX_BYTES = 10_000
VALUES: dict[str, tuple[str, Callable[[float], bool]]] = {  # key: what is allowed, and the test for it
    "lr": ("a number above 0", lambda value: value > 0),
    "momentum": ("a number from 0 to below 1", lambda value: 0 <= value < 1),
    "weight_decay": ("a number, 0 or more", lambda value: value >= 0),
}
REQUESTS = ("checkpoint", "validate", "stop")
FORBIDDEN_TOKENS = (yaml.AnchorToken, yaml.AliasToken, yaml.TagToken, yaml.DirectiveToken)


def read_control_file(path: Path) -> dict[str, float | bool]:
    """The file's keys and values; {} for an empty file. Raises UserError if anything in it is wrong."""
    require(path.is_file(), "it is no file")
    with open(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    require(len(content) <= MAX_BYTES, f"it has more than {MAX_BYTES:,} bytes")
    try:
        contents = parse_yaml(content.decode())
    except UnicodeDecodeError:
        raise UserError("it is no text") from None
    if contents in ("", None):
        return {}
    require(isinstance(contents, dict), f"{reprlib.repr(contents)} is no line of key: value, as in lr: 0.01")
    return {key: convert(key, value) for key, value in contents.items()}


def parse_yaml(text: str) -> object:
    """Strings, and lists and mappings of strings: as numbers, YAML would not take 1e-3, and would read 010 as 8."""
    try:
        if any(isinstance(token, FORBIDDEN_TOKENS) for token in yaml.scan(text)):
            raise UserError("it has an anchor, an alias or a tag; write lines of key: value, as in lr: 0.01")
        return yaml.load(text, yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        place = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        raise UserError(f"{error.problem}{place}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError("it is not YAML") from error


def convert(key: str, value: object) -> float | bool:
    if key in REQUESTS:
        require(value in ("true", "false"), f"{key}: {reprlib.repr(value)} is neither true nor false")
        return value == "true"
    require(key in VALUES, f"there is no {reprlib.repr(key)}; {nearest(key, [*VALUES, *REQUESTS])}")
    allowed, is_allowed = VALUES[key]
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    require(math.isfinite(number) and is_allowed(number), f"{key}: {reprlib.repr(value)} is not {allowed}")
    return number
