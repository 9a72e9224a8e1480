"""Whether a study can be drawn, before a job trains for it: its keys, and the metrics and settings that it names."""

import re
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from athanor.base.errors import UserError, nearest
from athanor.engine.config.signatures import check_key, check_value
from athanor.engine.runs.study import COURSES

KEYS = {"title": str, "panels": list[dict], "compare": Literal["ensembles"]}
PANEL = {"x": str, "y": str, "best": str, "log_x": bool, "log_y": bool, "y_range": list[float]}
NUMBERS = ("epochs", "steps", "checkpoint_epoch", "seconds", "fit_seconds", "images_per_second", "parameters")


def check_keys(node: object) -> None:
    """Raise UserError at the first wrong key or type of the study node."""
    check_value("study", node, dict, "train.yaml")
    for key, value in node.items():
        check_key(f"study.{key}", KEYS, "a study")
        check_value(f"study.{key}", value, KEYS[key], "a study")
    for key in ("title",) if "compare" in node else ("title", "panels"):
        if not node.get(key):
            raise UserError(f"study.{key} is missing: a study has a title and panels, as those in configs/study")
    for i, panel in enumerate(node.get("panels", [])):
        for key, value in panel.items():
            check_key(f"study.panels[{i}].{key}", PANEL, "a panel")
            check_value(f"study.panels[{i}].{key}", value, PANEL[key], "a panel")
        for key in ("x", "y"):
            if key not in panel:
                raise UserError(
                    f"study.panels[{i}].{key} is missing: a panel shows y against x, as x: epoch, y: val/acc"
                )
        if len(panel.get("y_range", (0, 1))) != 2:
            raise UserError(f"study.panels[{i}].y_range={panel['y_range']}: a panel takes [<from>, <to>]")


def check(config: DictConfig) -> None:
    """Raise UserError where a study names what its jobs will not have. `config` is that of the multirun."""
    name = config.hydra.runtime.choices.get("study")
    if "study" not in config:
        raise UserError(f"study={name} says nothing of what is drawn: it has no node study, with a title and panels")
    node = OmegaConf.to_container(config.study, resolve=True)
    check_keys(node)
    varied = [*(config.hydra.sweeper.get("params") or {})]
    varied += [word.partition("=")[0] for word in config.hydra.overrides.task if not word.startswith("study")]
    varied = [key.lstrip("+") for key in varied]
    for i, panel in enumerate(node.get("panels", [])):
        check_panel(f"study.panels[{i}]", panel, varied, config)


def check_panel(path: str, panel: dict[str, Any], varied: list[str], config: DictConfig) -> None:
    is_course, best = panel["x"] in COURSES, panel.get("best")
    if not is_course and panel["x"] not in varied:
        raise UserError(f"{path}.x={panel['x']} is not varied; {nearest(panel['x'], [*COURSES, *varied])}")
    if is_course and not (config.get("logger") or {}).get("csv"):
        raise UserError(f"{path}.x={panel['x']} is drawn from metrics.csv, which nobody writes; add logger=csv")
    if best and is_course:
        raise UserError(f"{path}.best={best}: there is one for each value of a setting, and x is {panel['x']}")
    if best and best not in varied:
        raise UserError(f"{path}.best={best} is not varied; {nearest(best, varied)}")
    known = metrics(config, is_course)
    if best and panel["y"] not in known:
        raise UserError(f"{path}.y={panel['y']}: {path}.best needs a metric; {nearest(panel['y'], known)}")
    known += () if is_course else NUMBERS
    stage = re.split("[./]", panel["y"])[0]
    if stage == "test" and not config.test:
        raise UserError(
            f"{path}.y={panel['y']}: with test=false the test set is not read; draw val/, or type test=true"
        )
    others = [*(config.get("callbacks") or {}), "data"]  # what they record is known only when it is there
    if panel["y"] not in known and stage not in others:
        raise UserError(f"{path}.y={panel['y']} is not recorded; {nearest(panel['y'], known)}")


def metrics(config: DictConfig, is_course: bool) -> list[str]:
    names = ["loss", "acc", *(name for name, node in (config.get("metrics") or {}).items() if node)]
    known = ["train/loss", "train/acc", *(f"val/{name}" for name in names)]
    if is_course:
        return [*known, "train/loss_step", "lr"]
    return known + ([f"test/{name}" for name in names] if config.test else [])
