"""The only file in which a config becomes objects."""

import logging
import pkgutil
from functools import partial
from typing import Any, Literal

import lightning.pytorch as L
import torch
from hydra import compose
from lightning.pytorch.callbacks import ProgressBar
from omegaconf import DictConfig, OmegaConf

from athanor import ranks
from athanor.callbacks.checkpoints import Checkpoints
from athanor.callbacks.stopwatch import Stopwatch
from athanor.check_config import check_key, check_value, signature
from athanor.classifier import Classifier
from athanor.data.module import ImageData
from athanor.errors import UserError, nearest
from athanor.optim.schedules import Unit

log = logging.getLogger(__name__)

TOP_LEVEL = {
    "name": str,
    "seed": int,
    "data_dir": str,
    "test": bool,
    "compile": bool,
    "weights": str | None,
    "resume": str | None,
    "run": str | None,
}
GROUPS = ("data", "model", "loss", "optim", "scheduler", "metrics", "callbacks", "logger", "trainer")
SEVERAL = ("metrics", "callbacks", "logger")  # groups of which a config takes any number of options
OUTSIDE_TARGET = {"scheduler": {"unit": Unit}, "data": {"preprocess": dict}}  # keys taken out before it is built


def plain(cfg: DictConfig) -> dict:
    """The config resolved to dicts, lists, numbers and text; a value that is still missing is named."""
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise UserError(f"{missing[0]} is needed: type {missing[0]}=<value>")
    return OmegaConf.to_container(cfg, resolve=True)


def check(cfg: dict) -> None:
    """Raise UserError at the first wrong key, type or target. Nothing is built."""
    for key, value in cfg.items():
        check_key(key, [*TOP_LEVEL, *GROUPS, "monitor"], "train.yaml")
        if key in TOP_LEVEL:
            check_value(key, value, TOP_LEVEL[key], "train.yaml")
    if not 0 <= cfg["seed"] < 2**32:
        raise UserError(f"seed={cfg['seed']} is not a seed; use 0 to {2**32 - 1}")
    check_monitor(cfg)
    for group in GROUPS:
        if group not in SEVERAL and not cfg.get(group):
            raise UserError(f"{group} is missing: choose one with {group}=<option>")
        for name, node in (cfg.get(group) or {}).items() if group in SEVERAL else ():
            if not (node is None or (isinstance(node, dict) and "_target_" in node)):
                raise UserError(f"{group}.{name}={node} is no object with a _target_; null takes one away")
        check_node(group, cfg.get(group) or {})
    for key in "accumulate_grad_batches", "check_val_every_n_epoch", "log_every_n_steps":
        if (value := cfg["trainer"].get(key)) is not None and value < 1:
            raise UserError(f"trainer.{key}={value}: use 1 or more")


def check_monitor(cfg: dict) -> None:
    for key, hint in {"metric": str, "mode": Literal["min", "max"]}.items():
        check_value(f"monitor.{key}", cfg["monitor"].get(key), hint, "train.yaml")
    names = ["loss", "acc"] + [name for name, node in (cfg.get("metrics") or {}).items() if node]
    known = ["train/loss", "train/acc", *(f"val/{name}" for name in names)]
    if cfg["monitor"]["metric"] not in known:
        metric = cfg["monitor"]["metric"]
        raise UserError(f"monitor.metric={metric} is not logged; {nearest(metric, known)}")


def settle(cfg: dict, overrides: list[str]) -> list[str]:
    """Where the command line replaced an option that an experiment or a recorded run set values for: drop, in place,
    those that the new option does not take. Gives a notice for each value that is dropped or stays."""
    typed = [override.lstrip("+").partition("=")[0] for override in overrides]
    source = f"run={cfg['run']}" if cfg["run"] else next((o for o in overrides if o.startswith("experiment=")), None)
    notices = []
    for group in (group for group in GROUPS if source and group in typed and "_target_" in cfg[group]):
        choice = next(o for o in reversed(overrides) if o.lstrip("+").startswith(f"{group}=")).lstrip("+")
        option = OmegaConf.to_container(compose("train", [choice])[group])
        names, anything = node_signature(group, cfg[group])
        names = {*names, *OUTSIDE_TARGET.get(group, ())}
        for key, value in list(cfg[group].items()):
            if isinstance(value, dict) or f"{group}.{key}" in typed or option.get(key, ...) == value:
                continue
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
    hints |= OUTSIDE_TARGET.get(path, {})
    owner = node["_target_"].rpartition(".")[2] if is_object else path
    for key, value in node.items():
        if is_object and not anything and key[0] != "_":
            check_key(f"{path}.{key}", hints, owner)
        if isinstance(value, dict):
            check_node(f"{path}.{key}", value)
        elif key in hints:
            check_value(f"{path}.{key}", value, hints[key], owner)


def locate(path: str, target: str) -> Any:
    try:
        return pkgutil.resolve_name(target)
    except Exception as error:
        raise UserError(f"{path}._target_={target} cannot be imported: {str(error).splitlines()[-1]}") from error


def build(node: dict, **handed: object) -> Any:
    """The object of a node: its `_target_` called with its keys, or with `_partial_` a functools.partial of it.

    `handed` are facts of the run, given to a target that has an argument of that name.
    """
    target = pkgutil.resolve_name(node["_target_"])
    arguments = {key: value for key, value in node.items() if not key.startswith("_")}
    for key, value in arguments.items():
        if isinstance(value, dict) and "_target_" in value:
            arguments[key] = build(value, **handed)
    names, _ = signature(target)
    arguments |= {name: fact for name, fact in handed.items() if name in names and arguments.get(name) is None}
    return partial(target, **arguments) if node.get("_partial_") else target(**arguments)


def data(cfg: dict) -> ImageData:
    node = {key: value for key, value in cfg["data"].items() if key != "preprocess"}
    names, _ = signature(ImageData)
    own = {key: value for key, value in node.items() if key in names}
    if own["augment"]:
        own["augment"] = build(own["augment"])
    source = {key: value for key, value in node.items() if key not in names}
    return ImageData(build(source, data_dir=cfg["data_dir"], split_seed=own["split_seed"]), **own, seed=cfg["seed"])


def classifier(cfg: dict, data: ImageData) -> Classifier:
    """A fresh classifier for this data, its preprocessing fitted on the train split."""
    record = {
        "config": {**cfg, "resume": None},
        "input_shape": list(data.input_shape),
        "class_names": list(data.class_names),
        "split_hash": data.split_hash,
    }
    labels = data.source.train_labels[data.train_index]
    module = from_record(record, torch.bincount(labels, minlength=len(data.class_names)))
    module.preprocess.fit(data.source.train_images, data.train_index)
    return module


def refuse_other_data(record: dict, data: ImageData) -> None:
    """A checkpoint means nothing on other classes or images of another size."""
    for name, value in {"class_names": list(data.class_names), "input_shape": list(data.input_shape)}.items():
        if value != record[name]:
            raise UserError(f"this data has {name} {value}, the checkpoint has {record[name]}")


def from_record(record: dict, class_counts: torch.Tensor | None = None) -> Classifier:
    """A classifier as a checkpoint describes it, without weights."""
    cfg, input_shape, num_classes = record["config"], tuple(record["input_shape"]), len(record["class_names"])
    if class_counts is None:
        class_counts = torch.ones(num_classes)  # only a training loss needs the true ones; weights load over these
    scheduler = {key: value for key, value in cfg["scheduler"].items() if key != "unit"}
    network = build(cfg["model"], input_shape=input_shape, num_classes=num_classes)
    if cfg["compile"]:
        network.compile()
    metrics = {name: build(node, num_classes=num_classes) for name, node in (cfg.get("metrics") or {}).items() if node}
    return Classifier(
        network,
        build(cfg["data"]["preprocess"], input_shape=input_shape),
        build(cfg["loss"], class_counts=class_counts, num_classes=num_classes),
        record=record,
        optimizer=build(cfg["optim"]),
        scheduler=build(scheduler),
        unit=cfg["scheduler"].get("unit", "epochs"),
        monitor=cfg["monitor"]["metric"],
        metrics=metrics,
        seed=cfg["seed"],
    )


def trainer(cfg: dict, directory: str, data: ImageData) -> L.Trainer:
    """The trainer, with its callbacks and loggers, which write into `directory`."""
    facts = {"save_dir": directory, "parameters": parameters(cfg)}
    loggers = [build(node, **facts) for node in (cfg.get("logger") or {}).values() if node]
    callbacks = {name: node for name, node in (cfg.get("callbacks") or {}).items() if node}
    if not loggers:
        callbacks.pop("lr_monitor", None)
    refuse(cfg, data, callbacks)
    made = [build(node) for node in callbacks.values()]
    own = {
        "callbacks": [*made, Stopwatch()],
        "logger": loggers or False,  # None would mean Lightning's default
        "default_root_dir": directory,
        "enable_checkpointing": any(isinstance(callback, Checkpoints) for callback in made),
        "enable_progress_bar": any(isinstance(callback, ProgressBar) for callback in made),
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    if not len(data.val_index):
        own["limit_val_batches"] = 0
    return build({**cfg["trainer"], **own}, dirpath=directory)


def refuse(cfg: dict, data: ImageData, callbacks: dict[str, dict]) -> None:
    """Settings that are right one by one and wrong together, or on this machine."""
    accelerator = cfg["trainer"]["accelerator"]
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    there["gpu"] = any(there.values())
    if not there.get(accelerator, True):
        raise UserError(f"trainer.accelerator={accelerator}: torch finds none on this machine; type trainer=auto")
    if not len(data.val_index):
        for name, node in callbacks.items():
            if str(node.get("monitor")).startswith("val/") and not node["_target_"].endswith(".Checkpoints"):
                raise UserError(f"callbacks.{name} needs validation images: type callbacks.{name}=null")
        if cfg["scheduler"]["_target_"].endswith("ReduceLROnPlateau") and cfg["monitor"]["metric"].startswith("val/"):
            raise UserError("scheduler=plateau needs validation images; set data.val_fraction above 0")
    if issubclass(pkgutil.resolve_name(cfg["optim"]["_target_"]), torch.optim.LBFGS):
        refuse_lbfgs(cfg["trainer"])


def refuse_lbfgs(trainer: dict) -> None:
    """It evaluates one loss many times a step, which neither gradient sums nor a gradient scaler follow."""
    if trainer["accumulate_grad_batches"] not in (1, None):
        raise UserError("optim=lbfgs cannot accumulate gradients; use trainer.accumulate_grad_batches=1")
    if ranks.count(trainer) > 1:
        raise UserError("optim=lbfgs works on one device; use trainer.devices=1")
    if str(trainer["precision"]) not in ("32", "32-true", "64", "64-true"):
        raise UserError(
            f"optim=lbfgs cannot work with trainer.precision={trainer['precision']}; use 32-true or 64-true"
        )


def parameters(cfg: dict) -> dict[str, bool | int | float | str]:
    """The config as one flat table for comparing runs: `optim.lr: 0.001`."""
    table = {"seed": cfg["seed"]}

    def flatten(path: str, node: dict) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                flatten(f"{path}.{key}", value)
            elif key == "_target_":
                table[path] = value.rpartition(".")[2]
            elif not key.startswith("_") and value is not None:
                table[f"{path}.{key}"] = value if isinstance(value, (bool, int, float, str)) else str(value)

    for group in "data", "model", "loss", "optim", "scheduler":
        flatten(group, cfg[group])
    for key in "precision", "max_epochs", "accumulate_grad_batches":
        table[f"trainer.{key}"] = cfg["trainer"].get(key, "")
    return table
