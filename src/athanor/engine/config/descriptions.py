"""What the files below configs/ say of themselves: their comments, read as text. Nothing that they name is imported."""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import yaml

from athanor.base.errors import UserError, nearest
from athanor.engine.config import options

UNSHOWN = ("defaults", "_target_", "_partial_", "hydra")


@dataclass(frozen=True)
class Setting:
    """A line of a YAML file. key: as it is typed, `model.widths`; value: as it is written; empty for a node."""

    key: str
    value: str
    comment: str


class Option:
    """A file of a group, configs/<group>/<name>.yaml; of no group, train.yaml. Raises UserError where there is none."""

    def __init__(self, group: str, name: str) -> None:
        choices = options.options(group)
        if group and name not in choices:
            raise UserError(f"{group}={name} does not exist; {nearest(name, choices)}\n  {group}: {', '.join(choices)}")
        self.group, self.path = group, options.CONFIGS / group / f"{name}.yaml"
        self.text = self.path.read_text(encoding="utf-8")
        self.lines = [line for line in self.text.splitlines() if not line.startswith("# @package")]

    @cached_property
    def root(self) -> yaml.MappingNode:
        return yaml.compose("\n".join(self.lines)) or yaml.MappingNode("", [])

    @cached_property
    def head(self) -> list[str]:
        """The comment at the top, up to a line without a word, behind which a person reads how to write one's own."""
        end = next((i for i, line in enumerate(self.lines) if not line.startswith("# ")), len(self.lines))
        return [line[2:] for line in self.lines[:end]]

    @property
    def summary(self) -> str:
        """The first sentence of the head."""
        return re.split(r"(?<=\.)(?:\n| (?=[A-Z]))", "\n".join(self.head))[0].replace("\n", " ").rstrip(".")

    @cached_property
    def defaults(self) -> list[Setting]:
        """The entries of its defaults list: group, option and comment; the group is empty for a file of the same."""
        entries = [entry for key, node in self.root.value if key.value == "defaults" for entry in node.value]
        pairs = [entry.value[0] if isinstance(entry, yaml.MappingNode) else (None, entry) for entry in entries]
        return [Setting(key.value if key else "", self._written(node), self._comment(key, node)) for key, node in pairs]

    @property
    def target(self) -> str:
        match = re.search(rf"^(?:{self.group}:\n  )?_target_: (\S+)", "\n".join(self.lines), re.MULTILINE)
        return match[1] if match else ""

    def settings(self) -> dict[str, Setting]:
        """By their keys, its own before those of the files that it begins with."""
        place = "" if "@package _global_" in self.text else self.group.removesuffix("/base").replace("/", ".")
        merged = {setting.key: setting for setting in self._settings(self.root, f"{place}." if place else "")}
        for path in (entry.value.removesuffix("@_here_") for entry in self.defaults if not entry.key):
            if path != "_self_":
                folder, _, name = (path if path.startswith("/") else f"/{self.group}/{path}")[1:].rpartition("/")
                for key, setting in Option(folder, name).settings().items():
                    own = merged.get(key, setting)
                    merged[key] = replace(own, comment=own.comment or setting.comment)
        return merged

    def _settings(self, root: yaml.MappingNode, within: str) -> Iterator[Setting]:
        for key, node in root.value:
            if key.value not in UNSHOWN:
                is_node = isinstance(node, yaml.MappingNode) and node.value
                yield Setting(within + key.value, "" if is_node else self._written(node), self._comment(key, node))
                yield from self._settings(node, f"{within}{key.value}.") if is_node else ()

    def _written(self, node: yaml.Node) -> str:
        """A value in one line, as a command takes it."""
        text = "\n".join(self.lines)[node.start_mark.index : node.end_mark.index]
        return re.sub(r"\s+", " ", re.sub(r",\s+", ",", text)).strip()

    def _comment(self, key: yaml.Node | None, value: yaml.Node) -> str:
        """What stands behind a value, or else in the lines above its key that are no part of the head."""
        start = (key or value).start_mark
        end = value.end_mark if key is None or value.end_mark.line == start.line else key.end_mark
        if behind := re.match(r"\s*:?\s*# ?(.*)", self.lines[start.line][end.column :]):
            return behind[1]
        above = start.line
        while above > len(self.head) and self.lines[above - 1].lstrip().startswith("# "):
            above -= 1
        return " ".join(line.strip(" #") for line in self.lines[above : start.line])


def docstring(target: str) -> str:
    """The first paragraph of the docstring of a class or function, found in its file; empty where that is elsewhere."""
    module, _, name = target.rpartition(".")
    paths = [Path(place, f"{module.replace('.', '/')}.py") for place in sys.path]
    path = next(filter(Path.is_file, paths), None)
    nodes = ast.parse(path.read_text(encoding="utf-8")).body if path else []
    node = next((node for node in nodes if getattr(node, "name", "") == name), ast.Module([], []))
    return (ast.get_docstring(node) or "").partition("\n\n")[0]
