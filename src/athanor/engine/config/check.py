"""Whether a composed config is right, before anything is built: groups, keys, types and targets."""

import importlib
import math
import pkgutil
from typing import Any

from omegaconf import DictConfig, OmegaConf

from athanor.base.error_place import told
from athanor.base.errors import UserError, first_line, require
from athanor.engine.config import check_study, facts, monitors, options, refusals, schema, settings
from athanor.engine.config.secrets import resolve, reveal
from athanor.engine.config.signatures import check_key, check_value, signature, type_hint
from athanor.training.devices import count, device_type

MOST_THREADS = 1024  # many more cannot be started on any machine, and OpenMP ends the process


def plain(cfg: DictConfig) -> dict:
    """The config resolved to dicts, lists, numbers and text, with ${oc.env:NAME} for what comes from there.

    Raises UserError where a value is still missing, which it names.
    """
    for key, example in settings.EXAMPLES.items():
        if key in cfg and not OmegaConf.is_dict(value := cfg[key]):
            raise UserError(f"{key}={'null' if value is None else value}: train.yaml takes dict; type {example}")
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise UserError(f"{missing[0]} is needed: type {missing[0]}=<value>")
    return resolve(cfg)


def check(cfg: dict) -> None:
    """Raise UserError at the first wrong key, type or target. Nothing is built."""
    cfg = reveal(cfg)
    if renamed := settings.renamed(cfg):
        raise UserError(f"{renamed}; rename it in the YAML file that has it")
    here = {*schema.top_level(), *schema.UNRECORDED}
    for key in cfg:
        if key not in here:
            paths = [*here, *(path for path in settings.paths_of(cfg) if path.partition(".")[0] != key)]
            raise UserError(f"{key}: train.yaml has no {key!r}; {settings.advice(key, paths)}")
    check_settings(cfg)
    if "study" in cfg:
        check_study.check_keys(cfg["study"])
    check_group("task", schema.GROUPS["task"], cfg["task"] or {})
    unused = schema.unused(cfg)
    for name, group in schema.top_groups().items():
        if name not in unused:
            check_group(name, group, cfg.get(name) or {})
    check_reading(cfg["data"])
    check_task(cfg)
    refusals.refuse_callbacks(cfg.get("callbacks") or {}, schema.is_task(locate("task", cfg["task"]["_target_"])))
    monitors.check_monitors(cfg)
    check_trainer(cfg["trainer"])
    if cfg.get("check") and count(cfg["trainer"]) > 1:
        raise UserError("check=true is for one device; type python scripts/check.py with the same words before")
    check_optim(cfg["optim"] or {})


def check_settings(cfg: dict) -> None:
    """The values that stand in train.yaml itself."""
    for path, hint in settings.SETTINGS.items():
        top, _, key = path.partition(".")
        require(top in cfg, f"{top} is missing: leave out what took it away, or type +{top}=<value>")
        if key:
            check_value(top, cfg[top], dict, "train.yaml")
        check_value(path, cfg[top].get(key) if key else cfg[top], type_hint(hint), "train.yaml")
    check_value("check", cfg.get("check", False), bool, "train.yaml")
    for top in settings.EXAMPLES:
        names = [path.partition(".")[2] for path in settings.SETTINGS if path.startswith(f"{top}.")]
        for key in cfg[top]:
            check_key(f"{top}.{key}", names, "train.yaml")
    require(0 <= cfg["seed"] < 2**32, f"seed={cfg['seed']} is not a seed; use 0 to {2**32 - 1}")
    threads = cfg["compute"]["threads"]
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise UserError(f"compute.threads={threads}: use 1 or more, up to {MOST_THREADS}, or null for all cores")


def check_group(name: str, group: schema.Group, node: dict) -> None:
    require(group.several or "_target_" in node, f"{name} is missing: choose one with {name}=<option>")
    if group.partial and node.get("_partial_") is not True:
        raise UserError(f"{name}._partial_ must be true: what it takes, parameters or steps, comes later")
    for key, option in node.items() if group.several else ():
        if not (option is None or (isinstance(option, dict) and "_target_" in option)):
            raise UserError(f"{name}.{key}={option} is no object with a _target_; null takes one away")
    check_node(name, node)


def check_node(path: str, node: dict) -> None:
    """Keys and values of a node, and of the nodes in it."""
    hints, takes_any_key = node_signature(path, node)
    target = locate(path, node["_target_"]) if "_target_" in node else None
    facts.refuse_facts(path, target, node, hints)
    group, owner = schema.group_of(path), node["_target_"].rpartition(".")[2] if "_target_" in node else path
    for key, value in node.items():
        if value is None and key in hints and key in group.handed:
            continue  # it is handed over
        if not takes_any_key and key not in hints and key not in schema.NODE_KEYS:
            check_key(f"{path}.{key}", hints.keys() - {*schema.facts_for(path, target)}, owner)
        check_value(f"{path}.{key}", value, {**hints, **schema.NODE_KEYS}.get(key, Any), owner)
        check_part(f"{path}.{key}", value)


def check_part(path: str, value: object) -> None:
    """A value of a node: the nodes in it, in lists and lists of lists too, and that its numbers are finite."""
    if isinstance(value, dict):
        check_node(path, value)
    for index, part in enumerate(value if isinstance(value, list) else ()):
        check_part(f"{path}.{index}", part)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{path}={value} is no number to compute with")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise UserError(f"{path}={value} is too large to compute with; use less than 2**63")


def node_signature(path: str, node: dict) -> tuple[dict[str, Any], bool]:
    """Keys that a node may have, with their type hints, and whether it may have any other as well."""
    target = locate(path, node["_target_"]) if "_target_" in node else None
    hints, takes_any_key = signature(target) if target else ({}, True)
    group = schema.GROUPS.get(path)
    if group is None:
        return hints, takes_any_key
    if schema.is_data_module(target):
        return {**hints, "preprocess": dict}, takes_any_key
    if group.beside_of:
        hints = {**hints, **signature(pkgutil.resolve_name(group.beside_of))[0]}
    for key, hint in group.beside.items():
        hints = {**hints, key: hints[key] | type_hint(hint) if key in hints else type_hint(hint)}
    return hints, takes_any_key


def locate(path: str, target: str) -> Any:
    """The class or function that a `_target_` names. Raises UserError where there is none."""
    try:
        try:
            named = pkgutil.resolve_name(target)
        except AttributeError:
            importlib.import_module(target.rpartition(".")[0])  # raises what resolve_name has hidden: an ImportError
            raise
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        is_missing = missing and "." not in missing
        advice = f"\n  install {missing}, or let PYTHONPATH name the folder that it lies in" if is_missing else ""
        reason = f"{told(error) or first_line(error)}{advice}"
        raise UserError(f"{path}._target_={target} cannot be imported: {reason}") from error
    require(callable(named), f"{path}._target_={target} is no class or function; name one that is in it")
    return named


def check_reading(node: dict) -> None:
    """Whether the keys that say how the items of Datasets are read are there for those, and for nothing else."""
    target = locate("data", node["_target_"])
    if schema.is_data_module(target):
        return
    is_read = schema.returns_datasets(target)
    for key in schema.READING:
        if is_read and key not in node:
            raise UserError(f"data.{key} is missing: begin its YAML with defaults: [base/datasets@_here_, _self_]")
        if not is_read and key in node:
            name = node["_target_"].rpartition(".")[2]
            raise UserError(f"data.{key} is for functions that return Datasets, and {name} does not; leave it out")


def check_task(cfg: dict) -> None:
    """Whether data and loss are such as the task takes. A person's own loss is in no task's list, and fits."""
    task = pkgutil.resolve_name(cfg["task"]["_target_"])
    if not schema.is_task(task):
        check_any_module(cfg, task)
        return
    target, views, name = cfg["loss"]["_target_"], task.views, task.__name__
    if cfg["data"].get("views", 1) != views:
        raise UserError(f"the task {name} takes {views} of each image in a batch; type data.views={views}")
    mixes = [f"data.{key}" for key in ("mixup", "cutmix") if cfg["data"].get(key)]
    if mixes and not task.takes_probabilities:
        raise UserError(f"{mixes[0]} makes probabilities of classes, which the task {name} does not take; use 0")
    if mixes and target in [options.target("loss", loss) for loss in ("hinge", "squared_hinge")]:
        raise UserError(f"{mixes[0]} makes probabilities of classes; use loss=cross_entropy, or {mixes[0]}=0")
    if not task.losses or target in [options.target("loss", loss) for loss in task.losses]:
        return
    targets = filter(None, (options.target("task", other) for other in options.options("task")))
    for loss in sorted({loss for other in targets for loss in pkgutil.resolve_name(other).losses}):
        if options.target("loss", loss) == target:
            raise UserError(f"loss={loss} does not fit the task {name}; use {', '.join(task.losses)}, or your own")


def check_any_module(cfg: dict, target: type) -> None:
    """Refuse settings that only a Task does something with."""
    if not schema.subclass_of("lightning.pytorch.LightningModule")(target):
        raise UserError(f"task._target_={cfg['task']['_target_']} is no LightningModule")
    optim, model = cfg["optim"] or {}, cfg["model"] or {}
    settings_of_tasks = {
        "eval.tta": (cfg["eval"]["tta"], "none"),
        "optim.lr_scaling": (optim.get("lr_scaling"), "none"),
        **{f"optim.{key}": (optim.get(key), None) for key in ("lr_by_layer", "groups")},
        "model.freeze": (model.get("freeze"), None),
        "compute.compile": (cfg["compute"]["compile"] and not model, False),
    }
    for path, (value, without) in settings_of_tasks.items():
        if value not in (None, without):
            off = {None: "null", False: "false"}.get(without, without)
            raise UserError(f"{path}={value} does nothing for {target.__name__}, which is no Task; type {path}={off}")


def check_trainer(trainer: dict) -> None:
    for key in "accumulate_grad_batches", "check_val_every_n_epoch", "log_every_n_steps":
        value = trainer.get(key)
        require(value is None or value >= 1, f"trainer.{key}={value}: use 1 or more")
    if (value := trainer.get("gradient_clip_val")) is not None and value < 0:
        raise UserError(f"trainer.gradient_clip_val={value} clips nothing; use a number above 0, or null")
    for key in "val_check_interval", "limit_train_batches":
        value = trainer.get(key)
        if isinstance(value, (int, float)) and value == 0:
            raise UserError(f"trainer.{key}=0: use a number of batches, or a fraction of an epoch, as 0.5")
    devices = trainer.get("devices", "auto")
    is_number = isinstance(devices, int) or str(devices).removeprefix("-").isdigit()
    right = int(devices) >= 1 or int(devices) == -1 if is_number else devices == "auto" or isinstance(devices, list)
    if not right or devices == []:
        raise UserError(f"trainer.devices={devices}: use 1 or more, a list of their numbers, or -1 or auto for all")
    if isinstance(devices, list):
        require(len({*map(str, devices)}) == len(devices), f"trainer.devices={devices}: name each device once")
        if device_type(trainer.get("accelerator", "auto")) == "cpu":
            raise UserError(f"trainer.devices={devices}: a CPU has no numbers; use trainer.devices={len(devices)}")


def check_optim(optim: dict) -> None:
    """Values for which torch's own message does not name the key."""
    for key in "lr", "weight_decay", "momentum", "eps":
        if isinstance(value := optim.get(key), (int, float)) and value < 0:
            raise UserError(f"optim.{key}={value} is negative; use 0 or more")
    if isinstance(betas := optim.get("betas"), list) and not all(0 <= beta < 1 for beta in betas):
        raise UserError(f"optim.betas={betas}: use numbers from 0 to below 1, as [0.9, 0.999]")
