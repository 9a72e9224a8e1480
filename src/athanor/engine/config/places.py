"""Paths, URLs and environment variables in a config that comes from a file: where it could write, read or send."""

import contextlib
import re
from collections.abc import Collection, Iterator
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from athanor.base.errors import UserError
from athanor.engine.config import options, secrets

# arguments that are places whatever stands in them, as `save_dir: src`; `settings` of wandb has the address of a server
PLACE = re.compile(
    r"^_args_$|(^|_)(dir|dirpath|path|file|filename|folder|root|uri|url|host|address|endpoint|location|settings)$"
)
# arguments of loggers that name a run, or an owner of runs, in a service: it could be one of this person's
REMOTE = re.compile(r"^logger\..*\.(id|run_id|version|entity|resume_from|fork_from)$")
ELSEWHERE = re.compile(r"[/\\~]|[A-Za-z][\w+.-]*:[/\\]")  # how an absolute path or a URL begins
# texts, the places of the data, and what nobody takes from a file
FREE = ("name", "tags", "notes", "extra", "monitor", "data", "data_dir", "run", "resume")


def check(config: dict, typed: Collection[str] = ()) -> None:
    """Raise UserError at the first text of a loaded config that names a place outside the run, or a variable.

    Those of the data may do so, those that the person's own configs/ have under the same key, and those that one of
    the words `typed` replaces. Links of the data lead to places that nobody reads in the config: they are not followed
    unless `typed` says so.
    """
    replaced = tuple(f"{word.lstrip('+~').partition('=')[0]}." for word in typed)
    if follows_links(config.get("data")) and not "data.follow_links.".startswith(replaced):
        raise UserError(
            "data.follow_links=true: links are not followed because a run's file says so, as it was not made here\n"
            "  if you trust the folder data.root and its links, type run=<run> data.follow_links=true"
        )
    for where, key, text in texts({name: node for name, node in config.items() if name not in FREE}):
        is_right = is_harmless(where, key, text) or f"{where}.".startswith(replaced)
        if not is_right and text not in own_texts(key):
            raise UserError(
                f"{where}={text[:80]!r}: what is outside of a run is not taken from its file, as it was not made here\n"
                f"  if it is right, type run=<run> {where}=<value>, or put it into configs/local/default.yaml"
            )


def follows_links(node: object) -> bool:
    """Whether a setting `follow_links` is on, at any depth."""
    if isinstance(node, dict):
        return bool(node.get("follow_links")) or any(map(follows_links, node.values()))
    return isinstance(node, list) and any(map(follows_links, node))


def is_harmless(where: str, key: str, text: str) -> bool:
    is_place = PLACE.search(key) or REMOTE.match(where) or where == "weights"
    return not text or not (is_place or is_elsewhere(text) or "${" in text)


def is_elsewhere(text: str) -> bool:
    return bool(ELSEWHERE.match(text)) or ".." in re.split(r"[/\\]", text)


def check_states(callbacks: object, path: Path) -> None:
    """Raise UserError at the first text that names a place elsewhere, in the states that a checkpoint has of callbacks:
    Lightning's ModelCheckpoint deletes files that its state lists.
    """
    if isinstance(callbacks, (dict, list)):
        parts = [*callbacks, *callbacks.values()] if isinstance(callbacks, dict) else callbacks
        for part in parts:
            check_states(part, path)
    elif isinstance(callbacks, str) and is_elsewhere(callbacks):
        raise UserError(
            f"{path}: the state of a callback names {callbacks[:80]!r}, and the run was not made here\n"
            "  train on from its weights instead: weights=<run>"
        )


def texts(node: object, where: str = "", key: str = "") -> Iterator[tuple[str, str, str]]:
    """Each text in a config, but targets, with its path and the key that it, or the list around it, stands under."""
    if isinstance(node, str) and key != "_target_":
        yield where, key, node
    parts = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, part in parts:
        yield from texts(part, f"{where}.{name}".lstrip("."), key if isinstance(node, list) else str(name))


def own_texts(key: str) -> set[str]:
    """All texts under this key in the person's own configs/, as a run would record them."""
    found = set()
    for path in options.CONFIGS.rglob("*.yaml"):
        contents = path.read_text(encoding="utf-8")
        nodes = texts(yaml.safe_load(contents)) if f"{key}:" in contents else ()
        for text in (text for _, name, text in nodes if name == key):
            with contextlib.suppress(OmegaConfBaseException):  # it needs what the command line has chosen
                found.add(secrets.resolve(OmegaConf.create({"logger": {key: text}}))["logger"][key])
    return found
