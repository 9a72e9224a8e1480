"""Values of environment variables that a config takes by ${oc.env:NAME}: they are used, and never written to disk.

What is written has the interpolation in their place, so a recorded config resolves again where it is loaded.
"""

import logging
import os
import re
import traceback
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from athanor.base.errors import UserError

PUBLIC = ("ATHANOR_DATA", "HOME")  # places, which a recorded config must name
SHORTEST = 4  # a shorter value is a setting, such as a number of devices; to replace `1` would tear other values apart
INTERPOLATION = re.compile(r"\$\{oc\.env:([A-Za-z_]\w*)\}", re.ASCII)  # as it is written; all that a file may hold
NAMED = re.compile(r"""oc\.env\s*:\s*['"]?([^,}'"]*)""")  # as a person may type it, with a default or without


def find(cfg: DictConfig) -> dict[str, str]:
    """The interpolation by value of each environment variable that this composed, unresolved config names.

    Raises UserError where the name of a variable is computed, as its value could not be known.
    """
    found = {}
    for text in texts(OmegaConf.to_container(cfg, resolve=False)):
        for name in map(str.strip, NAMED.findall(text)):
            if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
                raise UserError(f"${{oc.env:{name}...}}: type the name of an environment variable itself")
            value = os.environ.get(name, "")
            if name not in PUBLIC and len(value) >= SHORTEST:
                found.setdefault(value, f"${{oc.env:{name}}}")
    return found


def texts(node: object) -> list[str]:
    if isinstance(node, dict):
        node = list(node.values())
    return [text for part in node for text in texts(part)] if isinstance(node, list) else [str(node)]


def hide(anything: Any, secrets: dict[str, str]) -> Any:
    """A copy with the interpolations for the values, in any text in it; a `_target_` is no secret, and stays."""
    if not secrets:
        return anything
    longest_first = sorted(secrets, key=len, reverse=True)  # one may be part of another
    pattern = re.compile("|".join(map(re.escape, longest_first)))
    return replaced(anything, lambda text: pattern.sub(lambda match: secrets[match[0]], text))


def reveal(anything: Any) -> Any:
    """A copy with the values for the interpolations. Raises UserError where a variable is not set."""
    return replaced(anything, lambda text: INTERPOLATION.sub(value_of, text))


def value_of(match: re.Match) -> str:
    if match[1] not in os.environ:
        raise UserError(f"the config takes {match[0]}, and there is no environment variable {match[1]}; set it")
    return os.environ[match[1]]


def replaced(anything: Any, replace: Callable[[str], str]) -> Any:
    if isinstance(anything, str):
        return replace(anything)
    if isinstance(anything, dict):
        return {key: value if key == "_target_" else replaced(value, replace) for key, value in anything.items()}
    if isinstance(anything, (list, tuple)):
        return type(anything)(replaced(value, replace) for value in anything)
    return anything


def redact(record: logging.LogRecord, secrets: dict[str, str]) -> bool:
    """For a handler's filter, partial(redact, secrets=...): what it writes has no value in it, nor has a traceback."""
    record.msg, record.args = hide(record.getMessage(), secrets), ()
    if record.exc_info:
        lines = traceback.format_exception(*record.exc_info)
        record.exc_text = hide("".join(lines).rstrip("\n"), secrets)
    return True
