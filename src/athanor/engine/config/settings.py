"""The settings of train.yaml that belong to no group."""

from collections.abc import Container, Iterable, Iterator
from typing import Any, Literal

from athanor.base.errors import closest, nearest

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

SYNONYMS = {"gpus": "devices", "learning_rate": "lr", "epochs": "max_epochs"}  # names that other programs have


def renamed(names: Container[str]) -> str:
    """A sentence on each of these names that is an old name of a setting; empty where there is none."""
    return ", ".join(f"{old} is called {new} now" for old, new in RENAMED.items() if old in names)


def paths_of(config: Any, within: str = "") -> Iterator[str]:
    """The places of all values and nodes of a config, as optim.lr."""
    for key, value in config.items():
        yield f"{within}{key}"
        if isinstance(value, dict):
            yield from paths_of(value, f"{within}{key}.")


def advice(path: str, paths: Iterable[str], value: str = "") -> str:
    """What to type instead of a key that is not there: one of these paths with the same name, else with a similar one,
    in the same node or elsewhere. value: `=0.1`, to be typed behind it.
    """
    node, _, key = path.rpartition(".")
    by_name: dict[str, list[str]] = {}
    for other in dict.fromkeys(paths):
        by_name.setdefault(other.rpartition(".")[2], []).append(other)
    here = [name for name, places in by_name.items() if f"{node}.{name}".lstrip(".") in places]
    name = key if key in by_name else SYNONYMS.get(key.lower(), key)
    if same := closest(name, by_name, 1):
        return f"did you mean {' or '.join(other + value for other in by_name[same][:3])}?"
    if similar := closest(name, here):
        return f"did you mean {f'{node}.{similar}'.lstrip('.')}{value}?"
    if similar := closest(name, by_name, 0.7):
        return f"did you mean {by_name[similar][0]}{value}?"
    return nearest(name, here)
