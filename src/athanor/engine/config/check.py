"""Whether a composed config is right, before anything is built: groups, keys, types and targets."""

import math
import pkgutil
from typing import Any, Literal

from hydra import compose
from omegaconf import DictConfig, OmegaConf

from athanor.base.errors import UserError, nearest
from athanor.data.module import ImageData
from athanor.engine.config import check_study
from athanor.engine.config.signatures import check_key, check_value, signature
from athanor.optim.scaling import Rule as LRScalingRule
from athanor.optim.schedules import Unit
from athanor.tasks import tta

TOP_LEVEL = {
    "name": str,
    "seed": int,
    "data_dir": str,
    "test": bool,
    "compile": bool,
    "threads": int | None,
    "matmul_precision": Literal["auto", "highest", "high", "medium"],
    "weights": str | None,
    "resume": str | None,
    "run": str | None,
}
GROUPS = ("data", "model", "loss", "optim", "scheduler", "metrics", "callbacks", "logger", "trainer")
SEVERAL = ("metrics", "callbacks", "logger")  # groups of which a config takes any number of options
# keys and values that are taken out before it is built
OUTSIDE_TARGET = {
    "scheduler": {
        "unit": Unit,
        "length": float | None,
        "warmup": float,
        "warmup_unit": Unit | None,
        "momentum": dict,
    },
    "scheduler.momentum": {"length": float},
    "optim": {"lr_scaling": LRScalingRule, "base_batch": int},
    "data": {"preprocess": dict},
    "trainer": {"precision": Literal["auto"]},
}


def plain(cfg: DictConfig) -> dict:
    """The config resolved to dicts, lists, numbers and text; a value that is still missing is named."""
    for key, example in {"monitor": "monitor.metric=val/acc monitor.mode=max", "eval": "eval.tta=flip"}.items():
        if key in cfg and not OmegaConf.is_dict(value := cfg[key]):
            raise UserError(f"{key}={'null' if value is None else value}: train.yaml takes dict; type {example}")
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise UserError(f"{missing[0]} is needed: type {missing[0]}=<value>")
    return OmegaConf.to_container(cfg, resolve=True)


def check(cfg: dict) -> None:
    """Raise UserError at the first wrong key, type or target. Nothing is built."""
    for key in (*TOP_LEVEL, "monitor", "eval"):
        if key not in cfg:
            raise UserError(f"{key} is missing: leave out what took it away, or type +{key}=<value>")
    for key, value in cfg.items():
        check_key(key, [*TOP_LEVEL, *GROUPS, "monitor", "eval", "launcher", "study"], "train.yaml")
        if key in TOP_LEVEL:
            check_value(key, value, TOP_LEVEL[key], "train.yaml")
    if not 0 <= cfg["seed"] < 2**32:
        raise UserError(f"seed={cfg['seed']} is not a seed; use 0 to {2**32 - 1}")
    if cfg["threads"] is not None and cfg["threads"] < 1:
        raise UserError(f"threads={cfg['threads']}: use 1 or more, or null for all cores")
    check_monitor(cfg)
    check_eval(cfg.get("eval"))
    if "study" in cfg:
        check_study.check_keys(cfg["study"])
    for group in GROUPS:
        if group not in SEVERAL and not cfg.get(group):
            raise UserError(f"{group} is missing: choose one with {group}=<option>")
        if group in ("optim", "scheduler") and cfg[group].get("_partial_") is not True:
            raise UserError(f"{group}._partial_ must be true: what it takes, parameters or steps, comes later")
        for name, node in (cfg.get(group) or {}).items() if group in SEVERAL else ():
            if not (node is None or (isinstance(node, dict) and "_target_" in node)):
                raise UserError(f"{group}.{name}={node} is no object with a _target_; null takes one away")
        check_node(group, cfg.get(group) or {})
    check_trainer(cfg["trainer"])
    check_optim(cfg["optim"])


def check_trainer(trainer: dict) -> None:
    for key in "accumulate_grad_batches", "check_val_every_n_epoch", "log_every_n_steps":
        if (value := trainer.get(key)) is not None and value < 1:
            raise UserError(f"trainer.{key}={value}: use 1 or more")
    if (value := trainer.get("gradient_clip_val")) is not None and value < 0:
        raise UserError(f"trainer.gradient_clip_val={value} clips nothing; use a number above 0, or null")
    devices = trainer.get("devices", "auto")
    is_number = isinstance(devices, int) or str(devices).removeprefix("-").isdigit()
    right = int(devices) >= 1 or int(devices) == -1 if is_number else devices == "auto" or isinstance(devices, list)
    if not right or devices == []:
        raise UserError(f"trainer.devices={devices}: use 1 or more, a list of their numbers, or -1 or auto for all")


def check_optim(optim: dict) -> None:
    """What torch says without the key."""
    for key in "lr", "weight_decay", "momentum", "eps":
        if isinstance(value := optim.get(key), (int, float)) and value < 0:
            raise UserError(f"optim.{key}={value} is negative; use 0 or more")
    if isinstance(betas := optim.get("betas"), list) and not all(0 <= beta < 1 for beta in betas):
        raise UserError(f"optim.betas={betas}: use numbers from 0 to below 1, as [0.9, 0.999]")


def check_eval(node: object) -> None:
    check_value("eval", node, dict, "train.yaml")
    for key in node:
        check_key(f"eval.{key}", ["tta"], "train.yaml")
    check_value("eval.tta", node.get("tta"), tta.Kind, "train.yaml")


def check_monitor(cfg: dict) -> None:
    for key, hint in {"metric": str, "mode": Literal["min", "max"]}.items():
        check_value(f"monitor.{key}", cfg["monitor"].get(key), hint, "train.yaml")
    names = ["loss", "acc"] + [name for name, node in (cfg.get("metrics") or {}).items() if node]
    known = ["train/loss", "train/acc", *(f"val/{name}" for name in names)]
    watched = {"monitor.metric": cfg["monitor"]["metric"]}
    for name, node in (cfg.get("callbacks") or {}).items():
        if isinstance(node, dict) and isinstance(node.get("monitor"), str):
            watched[f"callbacks.{name}.monitor"] = node["monitor"]
    for path, metric in watched.items():
        if metric not in known:
            raise UserError(f"{path}={metric} is not logged; {nearest(metric, known)}")


def settle(cfg: dict, overrides: list[str]) -> list[str]:
    """Where the command line replaced an option that an experiment, a study or a recorded run set values for: drop, in
    place, those that the new option does not take. Gives a notice for each value that is dropped or stays."""
    typed = [override.lstrip("+").partition("=")[0] for override in overrides]
    recipes = (o for o in overrides if o.startswith(("experiment=", "study=")))
    source = f"run={cfg['run']}" if cfg["run"] else next(recipes, None)
    notices = []
    for group in (group for group in GROUPS if source and group in typed and "_target_" in cfg[group]):
        choice = next(o for o in reversed(overrides) if o.lstrip("+").startswith(f"{group}=")).lstrip("+")
        option = OmegaConf.to_container(compose("train", [choice])[group])
        names, anything = node_signature(group, cfg[group])
        names = {*names, *OUTSIDE_TARGET.get(group, ())}
        for key, value in list(cfg[group].items()):
            if isinstance(value, dict) or f"{group}.{key}" in typed or option.get(key, ...) == value:
                continue
            if "${" in str(option.get(key)):
                continue  # it follows another setting, as plateau's mode does the monitor's
            stays = key in option if cfg["run"] else key in names or anything
            if not stays:
                del cfg[group][key]
            notices.append(f"{group}.{key}={value} of {source} {'stays' if stays else 'is dropped'} with {choice}")
    return notices


def node_signature(path: str, node: dict) -> tuple[dict[str, Any], bool]:
    target = locate(path, node["_target_"])
    return signature(target, ImageData) if path == "data" else signature(target)


def check_node(path: str, node: dict) -> None:
    """Keys and values of a node, and of the nodes in it."""
    is_object = "_target_" in node
    hints, anything = node_signature(path, node) if is_object else ({}, True)
    for key, hint in OUTSIDE_TARGET.get(path, {}).items():
        hints[key] = hints[key] | hint if key in hints else hint
    owner = node["_target_"].rpartition(".")[2] if is_object else path
    for key, value in node.items():
        if is_object and not anything and key[0] != "_":
            check_key(f"{path}.{key}", hints, owner)
        if isinstance(value, dict):
            check_node(f"{path}.{key}", value)
        elif key in hints:
            check_value(f"{path}.{key}", value, hints[key], owner)
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{path}.{key}={value} is no number to compute with")


def locate(path: str, target: str) -> Any:
    try:
        found = pkgutil.resolve_name(target)
    except Exception as error:
        raise UserError(f"{path}._target_={target} cannot be imported: {str(error).splitlines()[-1]}") from error
    if not callable(found):
        raise UserError(f"{path}._target_={target} is no class or function; name one that is in it")
    return found
