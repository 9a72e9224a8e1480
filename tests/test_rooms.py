"""The rooms of the package, and the direction of imports between them (the contracts in pyproject.toml)."""

import subprocess
import sys
from pathlib import Path

ROOMS = {"base", "models", "data", "optim", "tasks", "training", "craft", "callbacks", "engine"}


def test_nothing_but_the_rooms_is_at_the_root_of_the_package(repo):
    entries = {path.name for path in (repo / "src" / "athanor").iterdir() if path.name != "__pycache__"}
    assert entries == {*ROOMS, "__init__.py"}


def test_imports_go_one_way_and_never_in_a_circle(repo):
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache"], cwd=repo, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert "4 kept, 0 broken" in done.stdout
