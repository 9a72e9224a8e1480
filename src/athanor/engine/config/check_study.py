"""Whether a study can be drawn, before any job trains for it: its keys, and the metrics and settings that it names."""

import pkgutil
import re
from typing import Any

from omegaconf import DictConfig, OmegaConf

from athanor.base.error_place import told
from athanor.base.errors import UserError, first_line, nearest
from athanor.engine.config.monitors import logged_metrics
from athanor.engine.config.signatures import check_key, check_value

COURSES = ("epoch", "step")  # an x against which a run's metrics.csv is drawn; any other x is a setting
KEYS = {"title": str, "panels": list[dict], "conclude": str}
PANEL = {"x": str, "y": str, "best": str, "log_x": bool, "log_y": bool, "y_range": tuple[float, float]}
NUMBERS = ["epochs", "steps", "checkpoint_epoch", "seconds", "fit_seconds", "images_per_second", "parameters"]


def check_keys(node: object) -> None:
    """Raise UserError at the first wrong key or type of the study's node."""
    check_value("study", node, dict, "train.yaml")
    check_fields("study", node, KEYS, ("title",) if "conclude" in node else ("title", "panels"), "a study")
    for i, panel in enumerate(node.get("panels", [])):
        check_fields(f"study.panels[{i}]", panel, PANEL, ("x", "y"), "a panel")


def check_fields(path: str, node: dict, hints: dict[str, Any], required: tuple[str, ...], owner: str) -> None:
    for key, value in node.items():
        check_key(f"{path}.{key}", hints, owner)
        check_value(f"{path}.{key}", value, hints[key], owner)
    for key in required:
        if not node.get(key):
            raise UserError(f"{path}.{key} is missing: {owner} needs {' and '.join(required)}, as in configs/study")


def check_study(config: DictConfig) -> None:
    """Raise UserError where a study names what its jobs will not record, or a function that cannot be imported.

    config: that of the multirun, with its hydra node.
    """
    name = config.hydra.runtime.choices.get("study")
    if "study" not in config:
        raise UserError(f"study={name} says nothing of what is drawn: it has no node study, with a title and panels")
    node = OmegaConf.to_container(config.study, resolve=True)
    check_keys(node)
    if "conclude" in node:
        check_conclude(node["conclude"])
    typed = [word.partition("=")[0] for word in config.hydra.overrides.task if not word.startswith("study")]
    varied = [key.lstrip("+") for key in [*(config.hydra.sweeper.get("params") or {}), *typed]]
    for i, panel in enumerate(node.get("panels", [])):
        check_panel(f"study.panels[{i}]", panel, varied, config)


def check_conclude(name: str) -> None:
    """Raise UserError where this is not the dotted name of a function."""
    try:
        function = pkgutil.resolve_name(name)
    except Exception as error:  # a module may raise anything
        raise UserError(f"study.conclude={name} cannot be imported: {told(error) or first_line(error)}") from error
    if not callable(function):
        raise UserError(f"study.conclude={name} is not a function; it takes the study and gives lines and a figure")


def check_panel(path: str, panel: dict[str, Any], varied: list[str], config: DictConfig) -> None:
    """Raise UserError where a panel's x or best is not varied, or its y is not recorded."""
    is_course, best = panel["x"] in COURSES, panel.get("best")
    if not is_course and panel["x"] not in varied:
        raise UserError(f"{path}.x={panel['x']} is not varied; {nearest(panel['x'], [*COURSES, *varied])}")
    if is_course and not (config.get("logger") or {}).get("csv"):
        raise UserError(f"{path}.x={panel['x']} is drawn from metrics.csv, which nobody writes; add logger=csv")
    if best and is_course:
        raise UserError(f"{path}.best={best}: there is one for each value of a setting, and x is {panel['x']}")
    if best and best not in varied:
        raise UserError(f"{path}.best={best} is not varied; {nearest(best, varied)}")
    reads_test = OmegaConf.select(config, "eval.test")  # None where eval is no node, which check.py refuses
    metrics = list(logged_metrics(config))
    if not is_course and reads_test:
        metrics += [name.replace("val/", "test/", 1) for name in metrics if name.startswith("val/")]
    if best and panel["y"] not in metrics:
        raise UserError(f"{path}.y={panel['y']}: {path}.best needs a metric; {nearest(panel['y'], metrics)}")
    stage = re.split("[./]", panel["y"])[0]
    if stage == "test" and not reads_test:
        raise UserError(f"{path}.y={panel['y']}: the test set is left unread; draw val/, or type eval.test=true")
    known = metrics + (["train/loss_step", "lr"] if is_course else NUMBERS)
    others = [*(config.get("callbacks") or {}), "data"]  # their names are known only when they are recorded
    if panel["y"] not in known and stage not in others:
        raise UserError(f"{path}.y={panel['y']} is not recorded; {nearest(panel['y'], known)}")
