"""Values of environment variables that loggers take by ${oc.env:NAME}: they are used, and never written to disk.

In `logger.*` the config of a process keeps the text ${oc.env:NAME} in their place, which is what goes into every file,
and what a recorded config is resolved from again where it is loaded. Values are put in where something is checked or
built. All other settings are recorded with their values, as a result may depend on them.
"""

import logging
import os
import re
import traceback
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from athanor.base.errors import UserError
from athanor.engine.config.hydra_versions import register_resolver

PUBLIC = ("ATHANOR_DATA", "HOME")  # places, which a recorded config must name
SHORTEST = 4  # characters; a shorter value is a setting, such as a number of devices, and is recorded as it is
INTERPOLATION = re.compile(r"\$\{oc\.env:([A-Za-z_]\w*)\}", re.ASCII)  # the only interpolation that a file may hold


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """A composed config in plain values, in which the text ${oc.env:NAME} stands for each value of a logger from there.

    The text is kept by its place: the same value elsewhere, or a part of another word, is left alone.
    """
    values = OmegaConf.to_container(cfg, resolve=True)

    def text(name: str, *default: Any) -> str | None:
        if name in PUBLIC or len(os.environ.get(name, "")) < SHORTEST:
            return oc.env(name, *default)
        return f"${{oc.env:{name}}}"

    register_resolver("oc.env", text, replace=True)
    try:
        return {key: keep_text(value, cfg, key) if key == "logger" else value for key, value in values.items()}
    finally:
        register_resolver("oc.env", oc.env, replace=True)


def keep_text(value: Any, parent: Any, key: str | int) -> Any:
    """What `parent[key]` of a config gives now, for each text in `value`; numbers that were decoded are settings."""
    try:
        node = parent[key]
    except OmegaConfBaseException:  # a variable that chooses a node, as in ${lrs.${oc.env:PRESET}}, is a setting too
        return value
    if isinstance(value, dict) and OmegaConf.is_dict(node):
        return {name: keep_text(part, node, name) for name, part in value.items()}
    if isinstance(value, list) and OmegaConf.is_list(node):
        return [keep_text(part, node, index) for index, part in enumerate(value)]
    return node if isinstance(value, str) and isinstance(node, str) and key != "_target_" else value


def find(anything: Any) -> dict[str, str]:
    """The text ${oc.env:NAME} by the value of the variable, for each that stands in a resolved config."""
    if isinstance(anything, str):
        names = [name for name in INTERPOLATION.findall(anything) if name in os.environ]
        return {os.environ[name]: f"${{oc.env:{name}}}" for name in names}
    parts = anything.values() if isinstance(anything, dict) else anything if isinstance(anything, list) else ()
    return {value: text for part in parts for value, text in find(part).items()}


def hide(text: str, secrets: dict[str, str]) -> str:
    """A text for people or files, such as a traceback, with the interpolations in place of the values in it."""
    if not secrets:
        return text
    longest_first = sorted(secrets, key=len, reverse=True)  # one may be part of another
    return re.sub("|".join(map(re.escape, longest_first)), lambda match: secrets[match[0]], text)


def reveal(anything: Any) -> Any:
    """A copy with the values in place of the interpolations. Raises UserError where a variable is not set."""
    if isinstance(anything, str):
        return INTERPOLATION.sub(value_of, anything)
    if isinstance(anything, dict):
        return {key: value if key == "_target_" else reveal(value) for key, value in anything.items()}
    return [reveal(value) for value in anything] if isinstance(anything, list) else anything


def value_of(match: re.Match) -> str:
    if match[1] not in os.environ:
        raise UserError(f"the config takes {match[0]}, and there is no environment variable {match[1]}; set it")
    return os.environ[match[1]]


def redact(record: logging.LogRecord, secrets: dict[str, str]) -> bool:
    """For a handler's filter, partial(redact, secrets=...): no line or traceback that it writes has a value in it."""
    record.msg, record.args = hide(record.getMessage(), secrets), ()
    if record.exc_info:
        lines = traceback.format_exception(*record.exc_info)
        record.exc_text = hide("".join(lines).rstrip("\n"), secrets)
    return True
