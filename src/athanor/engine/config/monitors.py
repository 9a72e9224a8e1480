"""Which metrics a run logs, and whether what is watched is one of them."""

import pkgutil
from collections.abc import Mapping

from athanor.base.errors import UserError, nearest, require
from athanor.engine.config import schema


def logged_metrics(config: Mapping) -> dict[str, str | None]:
    """The metrics that a run logs while it trains, as val/loss, each with its mode: min, max, or None if unknown.

    Those that the task names, and those of the metrics group.
    """
    measures = {
        name: measure.mode for name, measure in pkgutil.resolve_name(config["task"]["_target_"]).measures.items()
    }
    further = {name: None for name, node in (config.get("metrics") or {}).items() if node}
    logged = {f"train/{name}": mode for name, mode in measures.items()}
    return logged | {f"val/{name}": mode for name, mode in {**measures, **further}.items()}


def check_monitors(cfg: dict) -> None:
    """Every metric that something watches must be one that is logged, and be watched for its better side."""
    if not schema.is_task(pkgutil.resolve_name(cfg["task"]["_target_"])):
        return  # what it logs is known when it has logged it: callbacks/any_module.py
    logged = logged_metrics(cfg)
    watched = {"monitor": ("metric", cfg["monitor"])}
    for name, node in (cfg.get("callbacks") or {}).items():
        if node and isinstance(node.get("monitor"), str):
            watched[f"callbacks.{name}"] = "monitor", node
    for path, (key, node) in watched.items():
        metric, mode = node[key], node.get("mode")
        require(metric in logged, f"{path}.{key}={metric} is not logged; {nearest(metric, logged)}")
        if mode in ("min", "max") and logged[metric] not in (None, mode):
            better = {"min": "lower", "max": "higher"}[logged[metric]]
            raise UserError(
                f"{path}.mode={mode}: {metric} is better when it is {better}; type {path}.mode={logged[metric]}"
            )
