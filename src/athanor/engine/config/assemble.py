"""The only file in which a config becomes objects. What it is given may name secrets, which are looked up here."""

import pkgutil
from functools import partial
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import ProgressBar
from torch import nn

from athanor.base.errors import UserError
from athanor.callbacks.checkpoints import Checkpoints
from athanor.callbacks.stopwatch import Stopwatch
from athanor.craft.ensembles.network import Ensemble, EnsembleClassifier
from athanor.data.module import ImageData
from athanor.engine.config import records, trust
from athanor.engine.config.check import OUTSIDE_TARGET
from athanor.engine.config.secrets import reveal
from athanor.engine.config.signatures import check_arguments, signature
from athanor.optim.scaling import LRScaling
from athanor.optim.schedules import Schedule
from athanor.tasks.classification import Classifier
from athanor.training import devices, memory, overhead, precision
from athanor.training.agreement import Agreement

THREADS = torch.get_num_threads()  # before a job of a multirun sets its own
INIT_IMAGES = 5000  # that a network with `init_from_data` sees, at most


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
    if node.get("_partial_"):
        return partial(target, **arguments)
    check_arguments(target, arguments, node["_target_"])
    return target(**arguments)


def data(cfg: dict) -> ImageData:
    node = {key: value for key, value in reveal(cfg["data"]).items() if key != "preprocess"}
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
    if hasattr(module.network, "init_from_data"):
        sample = data.train_index[:: -(-len(data.train_index) // INIT_IMAGES)]  # images may be sorted by class
        module.network.init_from_data(module.preprocess(data.source.train_images[sample]))
    return module


def inner(cfg: dict, group: str) -> dict:
    """What a group's target takes, without the keys that stand beside it."""
    return {key: value for key, value in cfg[group].items() if key not in OUTSIDE_TARGET[group]}


def outer(cfg: dict, group: str) -> dict:
    return {key: value for key, value in cfg[group].items() if key in OUTSIDE_TARGET[group]}


def schedule(cfg: dict) -> Schedule:
    beside = outer(cfg, "scheduler")
    momentum = dict(beside.pop("momentum", None) or {})
    length = momentum.pop("length", 1.0)
    return Schedule(
        build(inner(cfg, "scheduler")), **beside, momentum=momentum and build(momentum), momentum_length=length
    )


def refuse_other_data(record: dict, data: ImageData) -> None:
    """A checkpoint means nothing on other classes or images of another size."""
    for name, value in {"class_names": list(data.class_names), "input_shape": list(data.input_shape)}.items():
        if value != record[name]:
            raise UserError(f"this data has {name} {value}, the checkpoint has {record[name]}")


def from_record(record: dict, class_counts: torch.Tensor | None = None) -> Classifier:
    """A classifier, or an ensemble of them, as a checkpoint describes it, without weights."""
    input_shape, num_classes = tuple(record["input_shape"]), len(record["class_names"])
    cfg = reveal(records.built(record["config"]))
    if class_counts is None:
        class_counts = torch.ones(num_classes)  # only a training loss needs the true ones; weights load over these
    if "members" in record:
        kind, network, preprocess = EnsembleClassifier, ensemble(record), nn.Identity()
    else:
        kind, network = Classifier, build(cfg["model"], input_shape=input_shape, num_classes=num_classes)
        preprocess = build(cfg["data"]["preprocess"], input_shape=input_shape)
    if cfg["compile"]:
        network.compile()
    metrics = {name: build(node, num_classes=num_classes) for name, node in (cfg.get("metrics") or {}).items() if node}
    return kind(
        network,
        preprocess,
        build(cfg["loss"], class_counts=class_counts, num_classes=num_classes),
        record=record,
        optimizer=build(inner(cfg, "optim")),
        schedule=schedule(cfg),
        lr_scaling=LRScaling(**outer(cfg, "optim")),
        monitor=cfg["monitor"]["metric"],
        metrics=metrics,
        tta=cfg["eval"]["tta"],
        seed=cfg["seed"],
    )


def ensemble(record: dict) -> Ensemble:
    """The network of an ensemble. Its members are described by a file, whoever asks, and so trust.py looks at them."""
    members = []
    for member in record["members"]:
        trust.check(records.built(member["config"]))
        members.append(from_record({**member, "config": {**member["config"], "compile": False, "metrics": {}}}))
    return Ensemble(members, record["combine"], record["weights"], record["tta"])


def trainer(
    cfg: dict, directory: str, data: ImageData, network: nn.Module, resume_step: int | None = None
) -> L.Trainer:
    """The trainer of this network, with its callbacks and loggers, which write into `directory`.

    What a resumed run logged at `resume_step` and after it is logged again, so the loggers take it out.
    """
    facts = {"save_dir": directory, "parameters": parameters(cfg), "purge_step": resume_step}  # no secret is logged
    cfg = reveal(cfg)
    callbacks = {name: node for name, node in (cfg.get("callbacks") or {}).items() if node}
    refuse(cfg, data, callbacks)
    loggers = [build(node, **facts) for node in (cfg.get("logger") or {}).values() if node]
    for logger in loggers:
        logger.log_hyperparams(facts["parameters"])
    agreement = Agreement()
    made = [build(node, agreement=agreement) for node in callbacks.values()] + [Stopwatch()]
    overhead.skip_empty_hooks(made)
    own = {
        "profiler": cfg["trainer"].get("profiler") or overhead.NoProfiler(),
        "callbacks": made,
        "logger": loggers or False,  # None would mean Lightning's default
        "default_root_dir": directory,
        "enable_checkpointing": any(isinstance(callback, Checkpoints) for callback in made),
        "enable_progress_bar": any(isinstance(callback, ProgressBar) for callback in made),
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    device = devices.kind(cfg["trainer"]["accelerator"])
    precision.set_matmul_precision(cfg["matmul_precision"], device)
    torch.set_num_threads(cfg["threads"] or THREADS)
    if device == "cpu":
        memory.keep_freed_memory()
    if cfg["trainer"]["precision"] == "auto":
        own["precision"] = precision.automatic(device, network)
    if not len(data.val_index):
        own["limit_val_batches"] = 0
    return build({**cfg["trainer"], **own}, dirpath=directory)


def refuse(cfg: dict, data: ImageData, callbacks: dict[str, dict]) -> None:
    """Settings that are right one by one and wrong together, or on this machine."""
    accelerator = cfg["trainer"]["accelerator"]
    there = devices.there()
    there["gpu"] = any(there.values())
    if not there.get(accelerator, True):
        raise UserError(f"trainer.accelerator={accelerator}: torch finds none on this machine; type trainer=auto")
    if cfg["eval"]["tta"] == "flip_shift" and min(data.input_shape[1:]) < 2:
        raise UserError("eval.tta=flip_shift moves images by a pixel, and these are one pixel wide; use flip or none")
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
    if devices.count(trainer) > 1:
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


def bare_trainer(cfg: dict, directory: str, data: ImageData, network: nn.Module) -> L.Trainer:
    """The trainer of a config on one device, without its loggers and callbacks, for scripts that do not train."""
    alone = {**cfg["trainer"], "devices": 1, "strategy": "auto"}
    return trainer({**cfg, "trainer": alone, "logger": {}, "callbacks": {}}, directory, data, network)
