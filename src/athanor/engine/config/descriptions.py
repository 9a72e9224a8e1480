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
    """A YAML file: `configs/<group>/<name>.yaml`, or train.yaml, of no group."""

    def __init__(self, group: str, name: str) -> None:
        choices = options.options(group)
        if group and name not in choices:
            raise UserError(f"{group}={name} does not exist; {nearest(name, choices)}\n  {group}: {', '.join(choices)}")
        self.group, self.name = group, name
        self.path = options.CONFIGS / group / f"{name}.yaml"
        self.text = self.path.read_text(encoding="utf-8")
        self.lines = self.text.splitlines()
        self.root = yaml.compose(self.text) or yaml.MappingNode("", [])

    @cached_property
    def head(self) -> list[str]:
        """The comment at the top, up to a line without a word, behind which a person reads how to write one's own."""
        lines = [line for line in self.lines if not line.startswith("# @package")]
        end = next((i for i, line in enumerate(lines) if not line.startswith("# ")), len(lines))
        return [line[2:] for line in lines[:end]]

    @property
    def summary(self) -> str:
        """The first sentence of the head."""
        return re.split(r"(?<=\.)(?:\n| (?=[A-Z]))", "\n".join(self.head))[0].replace("\n", " ").rstrip(".")

    @property
    def defaults(self) -> Iterator[tuple[str, str, str]]:
        """The entries of its defaults list: group, option and comment; an empty group for a file to begin with."""
        for key, node in self.root.value:
            for entry in node.value if key.value == "defaults" else ():
                pairs = entry.value if isinstance(entry, yaml.MappingNode) else [(None, entry)]
                for group, option in pairs:
                    yield group.value if group else "", self._written(option), self._comment(group or option, option)

    @cached_property
    def beginnings(self) -> list["Option"]:
        """The files that it begins with."""
        paths = [name.removesuffix("@_here_") for group, name, _ in self.defaults if not group and name != "_self_"]
        places = [path[1:] if path.startswith("/") else f"{self.group}/{path}" for path in paths]
        return [Option(*place.rsplit("/", 1)) for place in places]

    @property
    def chosen(self) -> dict[str, str]:
        """The options of other groups that it chooses."""
        inherited = {group: name for option in self.beginnings for group, name in option.chosen.items()}
        own = {group.partition("/")[2]: name for group, name, _ in self.defaults if group.startswith("override /")}
        return inherited | own

    @property
    def target(self) -> str:
        nodes = [self.root, *(node for key, node in self.root.value if key.value == self.group)]
        pairs = [pair for node in nodes if isinstance(node, yaml.MappingNode) for pair in node.value]
        return next((node.value for key, node in pairs if key.value == "_target_"), "")

    def settings(self, within: str | None = None) -> dict[str, Setting]:
        """By their keys, its own before those of the files that it begins with.

        within: where the node is, if not at the place of its group.
        """
        if within is None:
            within = "" if "@package _global_" in self.text or not self.group else f"{self.group.replace('/', '.')}."
        merged = {setting.key: setting for setting in self._settings(self.root, within)}
        for option in self.beginnings:
            for key, setting in option.settings(within).items():
                own = merged.get(key, setting)
                merged[key] = replace(own, comment=own.comment or setting.comment)
        return merged

    def _settings(self, root: yaml.MappingNode, within: str) -> Iterator[Setting]:
        for key, node in root.value:
            if key.value not in UNSHOWN:
                is_node = isinstance(node, yaml.MappingNode) and node.value
                yield Setting(within + key.value, "" if is_node else self._written(node), self._comment(key, node))
                if is_node:
                    yield from self._settings(node, f"{within}{key.value}.")

    def _written(self, node: yaml.Node) -> str:
        """A value in one line, as a command takes it."""
        text = self.text[node.start_mark.index : node.end_mark.index]
        return re.sub(r"\s+", " ", re.sub(r",\s+", ",", text)).strip()

    def _comment(self, key: yaml.Node, value: yaml.Node) -> str:
        """What stands behind a value, or else in the lines above its key that are no part of the head."""
        number = key.start_mark.line
        last = value.end_mark if value.end_mark.line == number else key.end_mark
        if behind := re.match(r"\s*:?\s*# ?(.*)", self.lines[number][last.column :]):
            return behind[1]
        above = number
        first = next((i for i, line in enumerate(self.lines) if not line.startswith("#")), 0)
        while above > first and self.lines[above - 1].lstrip().startswith("#"):
            above -= 1
        return " ".join(line.strip(" #") for line in self.lines[above:number])


def docstring(target: str) -> str:
    """The first paragraph of the docstring of a class or function, found in its file; empty where that is elsewhere."""
    module, _, name = target.rpartition(".")
    places = (Path(place, f"{module.replace('.', '/')}.py") for place in sys.path)
    path = next((path for path in places if module and path.is_file()), None)
    for node in ast.parse(path.read_text(encoding="utf-8")).body if path else ():
        if getattr(node, "name", None) == name:
            return (ast.get_docstring(node) or "").partition("\n\n")[0]
    return ""
