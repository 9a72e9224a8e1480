"""The only file in which a config becomes objects. Loggers may name secrets, whose values are put in here."""

import math
import pkgutil
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn

from athanor.base.errors import UserError, require
from athanor.callbacks.any_module import AnyModule
from athanor.callbacks.first_loss import FirstLoss
from athanor.callbacks.progress import EpochProgress
from athanor.callbacks.stopwatch import Stopwatch
from athanor.craft.ensembles.network import Ensemble, EnsembleClassifier
from athanor.data.any_data_module import AnyDataModule
from athanor.data.augmentation.augment import Augment
from athanor.data.augmentation.own_augment import OwnAugment
from athanor.data.datasets import Datasets
from athanor.data.module import ArrayData
from athanor.data.sources.checks import check_values
from athanor.data.streamed import at_distances, statistics_index
from athanor.engine.config import schema, trust
from athanor.engine.config.facts import refuse_facts
from athanor.engine.config.refusals import refuse, refuse_metrics, refuse_twins
from athanor.engine.config.secrets import reveal
from athanor.engine.config.signatures import check_arguments, signature
from athanor.optim.groups import OwnGroups
from athanor.optim.scaling import LRScaling
from athanor.optim.schedules import Schedule
from athanor.tasks.frozen import Frozen
from athanor.tasks.task import Task
from athanor.training import devices, memory, overhead, precision
from athanor.training.agreement import Agreement
from athanor.training.remote_loggers import log_once

THREADS = torch.get_num_threads()  # before a job of a multirun sets its own
INIT_IMAGES = 5000  # at most, that a network with `init_from_data` sees,
INIT_BYTES = 2**28  # and at most so many bytes of them, in float32: 5,000 of 64x64 pixels in colour, 445 of 224x224


def build(node: Any, path: str, **facts: object) -> Any:
    """What the config says at `path`, with an object in place of each node that has a `_target_`, however deep.

    The object is the target called with the other keys of the node, or with `_partial_` a functools.partial of it;
    `_args_` are its arguments without a name. Keys that stand beside the arguments (schema.Group.beside) are left out.
    `facts` are handed to it as the row of the nearest group says.
    """
    if isinstance(node, list):
        return [build(part, f"{path}.{index}", **facts) for index, part in enumerate(node)]
    if not isinstance(node, dict):
        return node
    parts = {key: build(part, f"{path}.{key}", **facts) for key, part in node.items()}
    if "_target_" not in node:
        return parts
    target, positional = pkgutil.resolve_name(node["_target_"]), parts.get("_args_") or []
    names, _ = signature(target)
    beside = schema.GROUPS[path].beside.keys() - names if path in schema.GROUPS else ()
    arguments = {key: part for key, part in parts.items() if key not in schema.NODE_KEYS and key not in beside}
    refuse_facts(path, target, arguments, names)
    handed = [name for name in schema.handed_to(path, target) if name in facts]
    arguments |= {name: facts[name] for name in handed if arguments.get(name) is None}
    if node.get("_partial_"):
        return partial(target, *positional, **arguments)
    check_arguments(target, positional, arguments, node["_target_"])
    return target(*positional, **arguments)


def divided(cfg: dict, path: str) -> tuple[dict, dict]:
    """The node of a group in two: what its target takes, and the keys that stand beside that (schema.Group.beside)."""
    for key in path.split("."):
        cfg = cfg.get(key) or {}
    group = schema.GROUPS[path]
    names = {*group.beside, *(signature(pkgutil.resolve_name(group.beside_of))[0] if group.beside_of else ())}
    names -= {*group.facts}
    beside = {key: value for key, value in cfg.items() if key in names}
    return {key: value for key, value in cfg.items() if key not in names}, beside


def data(cfg: dict) -> ArrayData | AnyDataModule:
    """The data module, with its source loaded and split."""
    if schema.is_data_module(pkgutil.resolve_name(cfg["data"]["_target_"])):
        facts = {"data_dir": cfg["data_dir"], "split_seed": cfg["data"].get("split_seed", 0), "seed": cfg["seed"]}
        own = {key: value for key, value in cfg["data"].items() if key != "preprocess"}
        return AnyDataModule(build(own, "data", **facts), cfg["seed"], schema.is_task(task_class(cfg)))
    source, own = divided(cfg, "data")
    del own["preprocess"]
    own["augment"] = augmentation(own["augment"])
    reading = {key: own.pop(key) for key in schema.READING if key in own}
    made = build(source, "data", data_dir=cfg["data_dir"], split_seed=own["split_seed"])
    if isinstance(made, Datasets):
        made = made.source(**reading)
    module = ArrayData(made, **own, seed=cfg["seed"])
    target = task_class(cfg)
    if not schema.is_task(target) and "preprocess" not in schema.handed_to("task", target):
        module.preprocess = build(cfg["data"]["preprocess"], "data.preprocess", input_shape=module.input_shape)
        fit(module.preprocess, module)
    return module


def augmentation(node: dict) -> Augment | OwnAugment:
    """Ours, or a person's: a function, which is given its arguments but the images, or what a class makes."""
    is_class = isinstance(pkgutil.resolve_name(node["_target_"]), type)
    built = build(node if is_class else {**node, "_partial_": True}, "data.augment")
    if not isinstance(built, Augment):
        return OwnAugment(built, node["_target_"], node.get("per_image"))
    require("per_image" not in node, "data.augment.per_image is for an augmentation of your own; ours is per image")
    return built


def fit(preprocess: nn.Module, data: ArrayData) -> None:
    inputs = data.source.train_inputs
    preprocess.fit(inputs, statistics_index(inputs, data.train_index))


def task(cfg: dict, data: ArrayData) -> L.LightningModule:
    """A fresh task for this data, its preprocessing fitted on the train split.

    Raises UserError where the task does not take the targets of the data, or the loss not those of the task.
    """
    target = task_class(cfg)
    if schema.is_task(target):
        target.check_source(data.source)
    if cfg["eval"]["test"]:  # else its values stay unread
        check_values("test", data.source.test_inputs, data.source.test_targets, data.source.class_names)
    record = {"config": {**cfg, "resume": None}, **described(cfg, data), "split_hash": data.split_hash}
    parts = parts_of(record, data.source.train_targets[data.train_index])
    network, preprocess = parts["network"], parts["preprocess"]
    module = made_of(record, parts)
    fit(preprocess, data)
    if isinstance(module, Task):
        network = module.network
        module.fit_targets(data.source.train_targets[data.train_index])
        module.fresh_network = lambda: set_first_weights(module, preprocess, model(record), cfg, data)
    if network:
        set_first_weights(module, preprocess, network, cfg, data)
    if isinstance(module, Task):  # ModelSummary counts operations by the example
        module.example_input_array = torch.zeros(1, *data.input_shape, dtype=data.source.train_inputs.dtype)
        refuse_metrics(module, data, cfg["monitor"]["metric"])
    return module


def set_first_weights(
    module: L.LightningModule, preprocess: nn.Module, network: nn.Module, cfg: dict, data: ArrayData
) -> nn.Module:
    """A network that was just built, with the weights that the config and, for `init_from_data`, images give it."""
    counts = class_counts(data.source.train_targets[data.train_index], len(module.record["class_names"]))
    if hasattr(network, "load_pretrained"):
        network.load_pretrained(cfg["data_dir"])
    build(cfg["init"], "init", class_counts=counts)(network)
    if hasattr(network, "init_from_data"):
        limit = min(INIT_IMAGES, max(INIT_BYTES // (4 * math.prod(data.input_shape)), 1))
        images = data.source.train_inputs[at_distances(data.train_index, limit)].to(module.device)
        network.to(module.device).init_from_data(preprocess(images))
    return network


def task_class(cfg: dict) -> type[L.LightningModule]:
    return pkgutil.resolve_name(cfg["task"]["_target_"])


def described(cfg: dict, data: ArrayData) -> dict[str, list | str | None]:
    """The part of a checkpoint's record that depends on the data: shape and type of an input, names of the outputs."""
    kind = task_class(cfg)
    names = (kind if schema.is_task(kind) else Task).output_names(data.source, cfg["task"])
    dtype = str(data.source.train_inputs.dtype).removeprefix("torch.")
    shape, columns = list(data.input_shape), data.source.columns
    return {"class_names": list(names), "input_shape": shape, "input_dtype": dtype, "columns": columns}


def class_counts(targets: torch.Tensor | None, num_classes: int) -> torch.Tensor | None:
    """Training inputs of each class, [num_classes]; None where these are not known, or targets are no classes."""
    if targets is None or targets.dtype != torch.int64 or targets.ndim != 1:
        return None
    counts = torch.bincount(targets, minlength=num_classes)
    return counts if len(counts) == num_classes else None  # class indices that the task takes for numbers


def facts_of(record: dict) -> dict[str, Any]:
    """What a checkpoint's record says to those that are built from it."""
    names, shape = record["class_names"], record["input_shape"]
    return {"input_shape": tuple(shape), "num_classes": len(names), "seed": record["config"]["seed"]}


def model(record: dict) -> nn.Module | None:
    """The network alone, with the weights that its own code sets; None for a module that has its own."""
    return build(record["config"]["model"], "model", **facts_of(record))


def from_record(record: dict, targets: torch.Tensor | None = None, compiled: bool = True) -> L.LightningModule:
    """A task, or an ensemble of classifiers, as a checkpoint describes it, without weights.

    targets: of the training inputs, which only a training loss may need. compiled: whether a network is compiled where
    the config asks for it.
    """
    return made_of(record, parts_of(record, targets, compiled))


def parts_of(record: dict, targets: torch.Tensor | None = None, compiled: bool = True) -> dict[str, Any]:
    """What a task is made of, by the names of its arguments; None of a group that it has no use for.

    Each group that schema.py calls rebuilt is built, and those of which nothing is known here are among the parts
    under their own names.
    """
    cfg = schema.rebuilt_part(record["config"])
    facts = facts_of(record)
    counts = class_counts(targets, facts["num_classes"])
    facts["class_counts"] = torch.ones(facts["num_classes"]) if counts is None else counts
    is_ensemble = "members" in record  # whose members preprocess for themselves
    elsewhere = ("task", "scheduler", "model", *(["data.preprocess"] if is_ensemble else []))
    groups = [path for path, group in schema.GROUPS.items() if group.rebuilt and not group.several]
    built = {path: build(divided(cfg, path)[0] or None, path, **facts) for path in groups if path not in elsewhere}
    network = ensemble_network(record) if is_ensemble else model(record)
    if compiled and cfg["compute"]["compile"]:
        network.compile()
    nodes = {name: node for name, node in (cfg.get("metrics") or {}).items() if node}
    return {
        "network": network,
        "preprocess": built.pop("data.preprocess", nn.Identity()),
        "optimizer": built.pop("optim"),
        "schedule": cfg["scheduler"] and schedule(cfg),
        "metrics": {name: build(node, f"metrics.{name}", **facts) for name, node in nodes.items()},
        **built,
    }


def made_of(record: dict, parts: dict[str, Any]) -> L.LightningModule:
    """The task of these parts; a LightningModule that is no Task gets those that it asks for, and the record."""
    cfg, is_ensemble = record["config"], "members" in record
    if not is_ensemble and not schema.is_task(task_class(cfg)):
        module = build(cfg["task"], "task", **facts_of(record), **parts)
        if hasattr(module, "record"):
            raise UserError(f"{type(module).__name__}.record is a name that the run needs for its own; rename it")
        module.record = record
        return module
    own_groups = divided(cfg, "optim")[1]
    scaling = {key: own_groups.pop(key) for key in ("lr_scaling", "base_batch") if key in own_groups}
    make_task = EnsembleClassifier if is_ensemble else build({**cfg["task"], "_partial_": True}, "task")
    first = (parts.pop("network"), parts.pop("preprocess"))
    return make_task(
        *first,
        **parts,
        record=record,
        lr_scaling=LRScaling(**scaling),
        groups=OwnGroups(**own_groups),
        frozen=Frozen() if is_ensemble else Frozen(**divided(cfg, "model")[1]),
        monitor=cfg["monitor"]["metric"],
        tta=cfg["eval"]["tta"],
        seed=cfg["seed"],
    )


def refuse_other_data(record: dict, data: ArrayData) -> None:
    """Raise UserError where the data has other classes, or images of another size, than the checkpoint's."""
    for name, value in described(record["config"], data).items():
        if name == "columns" and value != record[name]:
            raise UserError("the columns of this table have other means or categories than those of the checkpoint")
        if value != record[name]:
            raise UserError(f"this data has {name} {value}, the checkpoint has {record[name]}")


def schedule(cfg: dict) -> Schedule:
    """The schedule of learning rate and momentum."""
    factor, settings = divided(cfg, "scheduler")
    momentum, length = divided(cfg, "scheduler.momentum")
    settings["momentum"] = momentum and build(momentum, "scheduler.momentum")
    return Schedule(build(factor, "scheduler"), **settings, momentum_length=length.get("length", 1.0))


def ensemble_network(record: dict) -> Ensemble:
    """The network of an ensemble. A file describes its members, whoever asks, so each must pass trust.py."""
    members = []
    for member in record["members"]:
        trust.check(member["config"], schema.rebuilt_part(member["config"]))
        members.append(from_record({**member, "config": {**member["config"], "metrics": {}}}, compiled=False))
    return Ensemble(members, record["combine"], record["weights"], record["tta"])


def trainer(
    cfg: dict,
    directory: str,
    data: ArrayData,
    module: L.LightningModule,
    resume_step: int | None = None,
    versions: Mapping[str, str | int] = MappingProxyType({}),
) -> L.Trainer:
    """The trainer of this module, with its callbacks and loggers, which write into `directory`.

    A resumed run logs again what it had logged at `resume_step` and after it, so the loggers take that out first.
    versions: the runs with which loggers go on, by the names of these loggers: see remote_loggers.py.
    """
    facts = {"save_dir": directory, "parameters": parameters(cfg), "purge_step": resume_step}  # no secret is logged
    cfg = reveal(cfg)
    callback_nodes = {name: node for name, node in (cfg.get("callbacks") or {}).items() if node}
    refuse(cfg, data, callback_nodes)
    logger_nodes = (cfg.get("logger") or {}).items()
    loggers = [logger(name, node, facts, versions.get(name)) for name, node in logger_nodes if node]
    agreement = Agreement()
    built = callback_objects(callback_nodes, agreement=agreement, seed=cfg["seed"])
    is_task = isinstance(module, Task)
    callbacks = [*([] if is_task else [AnyModule(cfg["monitor"]["metric"])]), *built, FirstLoss(), Stopwatch()]
    overhead.skip_empty_hooks(callbacks)
    handed = {
        "callbacks": callbacks,
        "logger": loggers or False,  # None would mean Lightning's default
        "default_root_dir": directory,
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
        "enable_progress_bar": any(isinstance(callback, ProgressBar) for callback in callbacks),
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    own = own_settings(cfg, data, module)
    return build({**cfg["trainer"], **own}, "trainer", **handed, dirpath=directory)


def own_settings(cfg: dict, data: ArrayData, module: L.LightningModule) -> dict[str, Any]:
    """Settings of the trainer that follow from the device, the data and the module; the machine is set as well."""
    is_task, own = isinstance(module, Task), {"profiler": cfg["trainer"].get("profiler") or overhead.NoProfiler()}
    device = devices.device_type(cfg["trainer"]["accelerator"])
    use_machine(cfg, device)
    if cfg["trainer"]["precision"] == "auto":
        own["precision"] = precision.automatic(device, module.network if is_task else module)
    if not is_task:  # a GAN may have nothing to validate
        warnings.filterwarnings("ignore", "You passed in a `val_dataloader` but have no `validation_step`")
    if cfg["trainer"]["strategy"] == "ddp" and not is_task:  # several optimizers train some of the parameters each
        own["strategy"] = "ddp_find_unused_parameters_true"
    if not len(data.val_index) or not is_overridden("validation_step", module):
        own["limit_val_batches"] = 0
    return own


def logger(name: str, node: dict, facts: dict[str, Any], version: str | int | None) -> Logger:
    """A logger that has the parameters of the run. version: of the run that it goes on with, which has them already."""
    own = {} if version is None else {"version": version, "run_id": version}
    made = build(node, "logger", **facts, **own)
    if {"version", "run_id"} & {*schema.handed_to("logger", pkgutil.resolve_name(node["_target_"]))}:
        log_once(made, Path(facts["save_dir"], f"logged_{name}.json"), is_new=version is None)
    if version is None:
        made.log_hyperparams(facts["parameters"])
    return made


def callback_objects(nodes: dict[str, dict], **facts: object) -> list[L.Callback]:
    """The callbacks of a config by their names, without our progress bar where there is another."""
    built = {name: build(node, "callbacks", **facts) for name, node in nodes.items()}
    refuse_twins(built)
    bars = sum(isinstance(callback, ProgressBar) for callback in built.values())
    return [callback for callback in built.values() if bars < 2 or type(callback) is not EpochProgress]


def use_machine(cfg: dict, device: str) -> None:
    """Threads, precision of float32 products and memory of this process, as the config says, for a kind of device."""
    precision.set_matmul_precision(cfg["compute"]["matmul_precision"], device)
    torch.set_num_threads(cfg["compute"]["threads"] or THREADS)
    if device == "cpu":
        memory.keep_freed_memory()


def parameters(cfg: dict) -> dict[str, bool | int | float | str]:
    """The settings that schema.py calls compared, and a person's `extra`, as one flat table: `optim.lr: 0.001`."""
    table = {"seed": cfg["seed"]}

    def flatten(path: str, node: object) -> None:
        above, _, key = path.rpartition(".")
        if isinstance(node, dict):
            for name, value in node.items():
                flatten(f"{path}.{name}", value)
        elif key == "_target_":
            table[above] = str(node).rpartition(".")[2]
        elif not key.startswith("_") and node is not None:
            table[path] = node if isinstance(node, (bool, int, float, str)) else str(node)

    flatten("extra", cfg.get("extra"))
    for name, group in schema.top_groups().items():
        node = cfg.get(name) or {}
        flatten(name, node if group.compared == "all" else {key: node.get(key) for key in group.compared})
    return table


def bare_trainer(cfg: dict, directory: str, data: ArrayData, module: L.LightningModule) -> L.Trainer:
    """The trainer of a config on one device, without its loggers and callbacks, for scripts that do not train.

    Nor has it min_epochs and min_steps, with which a fit would not end at its first step.
    """
    alone = {**cfg["trainer"], "devices": 1, "strategy": "auto", "min_epochs": None, "min_steps": None}
    return trainer({**cfg, "trainer": alone, "logger": {}, "callbacks": {}}, directory, data, module)
