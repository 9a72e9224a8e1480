"""The config groups and their options, as files."""

import sys
from pathlib import Path


def find_configs() -> Path:
    """configs/ beside train.py, whichever script of the project runs."""
    here = Path(sys.argv[0]).resolve().parent
    return (here if (here / "configs").is_dir() else here.parent) / "configs"


CONFIGS = find_configs()


def options(group: str) -> list[str]:
    """The options of a group; empty where there is no such group."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml")) if group else []
