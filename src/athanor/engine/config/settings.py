"""The settings of train.yaml that belong to no group."""

from collections.abc import Container
from typing import Any, Literal

# Values of train.yaml that belong to no group, with their type hints.
SETTINGS: dict[str, Any] = {
    "name": str,
    "seed": int,
    "data_dir": str,
    "weights": str | None,
    "resume": str | None,
    "run": str | None,
    "tags": list[str],
    "notes": str | None,
    "extra": Any,
    "monitor.metric": str,
    "monitor.mode": Literal["min", "max"],
    "eval.test": bool | Literal["auto"],
    "eval.tta": "athanor.tasks.tta.Kind",
    "compute.threads": int | None,
    "compute.compile": bool,
    "compute.matmul_precision": Literal["auto", "highest", "high", "medium"],
}
EXAMPLES = {
    "monitor": "monitor.metric=val/acc monitor.mode=max",
    "eval": "eval.tta=flip",
    "compute": "compute.threads=1",
}
REBUILT_SETTINGS = ("seed", "compute", "monitor", "eval")  # that the task of a checkpoint is built from
REMARKS = {"tags": [], "notes": None, "extra": {}}  # settings on which no result depends, empty as here
RENAMED = {  # old names of settings
    "threads": "compute.threads",
    "compile": "compute.compile",
    "matmul_precision": "compute.matmul_precision",
    "test": "eval.test",
}


def renamed(names: Container[str]) -> str:
    """A sentence on each of these names that is an old name of a setting; empty where there is none."""
    return ", ".join(f"{old} is called {new} now" for old, new in RENAMED.items() if old in names)
