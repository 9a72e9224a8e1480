"""The only file in which a config becomes objects. The config may name secrets, whose values are put in here."""

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
from athanor.engine.config import schema, trust
from athanor.engine.config.secrets import reveal
from athanor.engine.config.signatures import check_arguments, signature
from athanor.optim.scaling import LRScaling
from athanor.optim.schedules import Schedule
from athanor.tasks.classification import Classifier
from athanor.training import devices, memory, overhead, precision
from athanor.training.agreement import Agreement

THREADS = torch.get_num_threads()  # before a job of a multirun sets its own
INIT_IMAGES = 5000  # at most, that a network with `init_from_data` sees


def build(node: dict, **facts: object) -> Any:
    """The object of a node: its `_target_` called with its keys, or with `_partial_` a functools.partial of it.

    `facts` of the run, as num_classes, are handed to a target that has an argument of that name.
    """
    target = pkgutil.resolve_name(node["_target_"])
    arguments = {key: value for key, value in node.items() if not key.startswith("_")}
    for key, value in arguments.items():
        if isinstance(value, dict) and "_target_" in value:
            arguments[key] = build(value, **facts)
    names, _ = signature(target)
    arguments |= {name: fact for name, fact in facts.items() if name in names and arguments.get(name) is None}
    if node.get("_partial_"):
        return partial(target, **arguments)
    check_arguments(target, arguments, node["_target_"])
    return target(**arguments)


def divided(cfg: dict, path: str) -> tuple[dict, dict]:
    """The node of a group in two: what its target takes, and the keys that stand beside that (schema.Group.beside)."""
    for key in path.split("."):
        cfg = cfg.get(key) or {}
    group = schema.GROUPS[path]
    names = {*group.beside, *(signature(pkgutil.resolve_name(group.beside_of))[0] if group.beside_of else ())}
    beside = {key: value for key, value in cfg.items() if key in names}
    return {key: value for key, value in cfg.items() if key not in names}, beside


def data(cfg: dict) -> ImageData:
    """The data module, with its source loaded and split."""
    cfg = reveal(cfg)
    source, own = divided(cfg, "data")
    del own["preprocess"]
    if own["augment"]:
        own["augment"] = build(own["augment"])
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


def from_record(record: dict, class_counts: torch.Tensor | None = None, compiled: bool = True) -> Classifier:
    """A classifier, or an ensemble of them, as a checkpoint describes it, without weights.

    Each group that schema.py calls rebuilt is built, and those of which nothing is known here are handed over under
    their own names. class_counts: training images of each class, which only a training loss needs. compiled: whether
    a network is compiled where the config asks for it.
    """
    cfg = reveal(schema.rebuilt_part(record["config"]))
    num_classes = len(record["class_names"])
    facts = {"input_shape": tuple(record["input_shape"]), "num_classes": num_classes}
    facts["class_counts"] = torch.ones(num_classes) if class_counts is None else class_counts
    is_ensemble = "members" in record  # whose members preprocess for themselves
    elsewhere = ("scheduler", "model", "data.preprocess") if is_ensemble else ("scheduler",)
    groups = [path for path, group in schema.GROUPS.items() if group.rebuilt and not group.several]
    parts = {path: build(divided(cfg, path)[0], **facts) for path in groups if path not in elsewhere}
    network = ensemble_network(record) if is_ensemble else parts.pop("model")
    if compiled and cfg["compute"]["compile"]:
        network.compile()
    return (EnsembleClassifier if is_ensemble else Classifier)(
        network,
        parts.pop("data.preprocess", nn.Identity()),
        record=record,
        optimizer=parts.pop("optim"),
        schedule=schedule(cfg),
        lr_scaling=LRScaling(**divided(cfg, "optim")[1]),
        monitor=cfg["monitor"]["metric"],
        metrics={name: build(node, **facts) for name, node in (cfg.get("metrics") or {}).items() if node},
        tta=cfg["eval"]["tta"],
        seed=cfg["seed"],
        **parts,
    )


def refuse_other_data(record: dict, data: ImageData) -> None:
    """Raise UserError where the data has other classes, or images of another size, than the checkpoint's."""
    for name, value in {"class_names": list(data.class_names), "input_shape": list(data.input_shape)}.items():
        if value != record[name]:
            raise UserError(f"this data has {name} {value}, the checkpoint has {record[name]}")


def schedule(cfg: dict) -> Schedule:
    """The schedule of learning rate and momentum."""
    factor, settings = divided(cfg, "scheduler")
    momentum, length = divided(cfg, "scheduler.momentum")
    settings["momentum"] = momentum and build(momentum)
    return Schedule(build(factor), **settings, momentum_length=length.get("length", 1.0))


def ensemble_network(record: dict) -> Ensemble:
    """The network of an ensemble. A file describes its members, whoever asks, so each must pass trust.py."""
    members = []
    for member in record["members"]:
        trust.check_targets(schema.rebuilt_part(member["config"]))
        members.append(from_record({**member, "config": {**member["config"], "metrics": {}}}, compiled=False))
    return Ensemble(members, record["combine"], record["weights"], record["tta"])


def trainer(
    cfg: dict, directory: str, data: ImageData, network: nn.Module, resume_step: int | None = None
) -> L.Trainer:
    """The trainer of this network, with its callbacks and loggers, which write into `directory`.

    A resumed run logs again what it had logged at `resume_step` and after it, so the loggers take that out first.
    """
    facts = {"save_dir": directory, "parameters": parameters(cfg), "purge_step": resume_step}  # no secret is logged
    cfg = reveal(cfg)
    callback_nodes = {name: node for name, node in (cfg.get("callbacks") or {}).items() if node}
    refuse(cfg, data, callback_nodes)
    loggers = [build(node, **facts) for node in (cfg.get("logger") or {}).values() if node]
    for logger in loggers:
        logger.log_hyperparams(facts["parameters"])
    agreement = Agreement()
    callbacks = [*(build(node, agreement=agreement) for node in callback_nodes.values()), Stopwatch()]
    overhead.skip_empty_hooks(callbacks)
    own = {
        "profiler": cfg["trainer"].get("profiler") or overhead.NoProfiler(),
        "callbacks": callbacks,
        "logger": loggers or False,  # None would mean Lightning's default
        "default_root_dir": directory,
        "enable_checkpointing": any(isinstance(callback, Checkpoints) for callback in callbacks),
        "enable_progress_bar": any(isinstance(callback, ProgressBar) for callback in callbacks),
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    device = devices.device_type(cfg["trainer"]["accelerator"])
    use_machine(cfg, device)
    if cfg["trainer"]["precision"] == "auto":
        own["precision"] = precision.automatic(device, network)
    if not len(data.val_index):
        own["limit_val_batches"] = 0
    return build({**cfg["trainer"], **own}, dirpath=directory)


def use_machine(cfg: dict, device: str) -> None:
    """Threads, precision of float32 products and memory of this process, as the config says, for a kind of device."""
    precision.set_matmul_precision(cfg["compute"]["matmul_precision"], device)
    torch.set_num_threads(cfg["compute"]["threads"] or THREADS)
    if device == "cpu":
        memory.keep_freed_memory()


def refuse(cfg: dict, data: ImageData, callbacks: dict[str, dict]) -> None:
    """Raise UserError for settings that are right one by one, and wrong together or on this machine."""
    accelerator = cfg["trainer"]["accelerator"]
    there = devices.available()
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
    """L-BFGS evaluates the loss many times a step, which gradient accumulation and gradient scalers do not support."""
    if trainer["accumulate_grad_batches"] not in (1, None):
        raise UserError("optim=lbfgs cannot accumulate gradients; use trainer.accumulate_grad_batches=1")
    if devices.count(trainer) > 1:
        raise UserError("optim=lbfgs works on one device; use trainer.devices=1")
    if str(trainer["precision"]) not in ("32", "32-true", "64", "64-true"):
        raise UserError(
            f"optim=lbfgs cannot work with trainer.precision={trainer['precision']}; use 32-true or 64-true"
        )


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
        flatten(name, cfg[name] if group.compared == "all" else {key: cfg[name].get(key) for key in group.compared})
    return table


def bare_trainer(cfg: dict, directory: str, data: ImageData, network: nn.Module) -> L.Trainer:
    """The trainer of a config on one device, without its loggers and callbacks, for scripts that do not train."""
    alone = {**cfg["trainer"], "devices": 1, "strategy": "auto"}
    return trainer({**cfg, "trainer": alone, "logger": {}, "callbacks": {}}, directory, data, network)
