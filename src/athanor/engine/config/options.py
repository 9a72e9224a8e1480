"""The config groups and their options, as the files below configs/."""

import re
import sys
from pathlib import Path

import yaml


def find_configs() -> Path:
    """The folder configs/ beside train.py, whichever script or launcher this process was started by."""
    script, package = Path(sys.argv[0]).resolve(), Path(__file__).resolve()
    places = [script.parent / "configs", script.parent.parent / "configs", package.parents[4] / "configs"]
    return next((place for place in places if (place / "train.yaml").is_file()), places[0])


CONFIGS = find_configs()
# where a person's own packages lie beside this one: scripts/ and the processes of launchers do not look there
sys.path += [str(place) for place in (CONFIGS.parent, CONFIGS.parent / "src") if str(place) not in sys.path]


def options(group: str) -> list[str]:
    """The names of a group's options; empty where there is no such group."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml")) if group else []


def spelled(group: str, value: str) -> str:
    """A choice, or several, as the files are called: `adamw` for AdamW. What is no option in any letters stays."""
    names = {name.lower(): name for name in options(group)}
    return re.sub(r"[\w.-]+", lambda match: names.get(match[0].lower(), match[0]), value) if names else value


def target(group: str, option: str) -> str | None:
    """The `_target_` of an option of a group; None where its YAML has none at the group's own place."""
    node = yaml.safe_load((CONFIGS / group / f"{option}.yaml").read_text(encoding="utf-8")) or {}
    return node.get(group, node).get("_target_")
