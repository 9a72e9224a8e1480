"""What a config may hold: one row a group.

Everything that checks, records, trusts, builds or compares a config reads it from here. A new group is one row in
GROUPS and its YAML files. What an object of a group is handed, called with and asked for stands in the docstring of its
base class, if that is ours (Source, Preprocess, Augment, Initialise), or else at the head of the group's first YAML
file, by the alphabet: configs/model/cnn.yaml.

Nothing heavy is imported: a type hint in quotes is the name of one, looked up when needed.
"""

import inspect
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, Literal

from athanor.engine.config.settings import REBUILT_SETTINGS, REMARKS, SETTINGS
from athanor.engine.config.signatures import evaluated_hints, required, signature

# what a task is made of
MADE = (
    "network",
    "preprocess",
    "loss",
    "optimizer",
    "schedule",
    "lr_scaling",
    "monitor",
    "metrics",
    "tta",
    "groups",
    "frozen",
)  # what a task takes
UNRECORDED = ("launcher", "study", "trust", "check")  # on which no result depends, so no run records them
NODE_KEYS: dict[str, Any] = {"_target_": str, "_partial_": bool, "_args_": list}  # that are no arguments by name


@dataclass(frozen=True)
class Group:
    """A group of the config, or a node within one. The first two fields judge targets that come from a file.

    what: the kind of object, for messages.
    accepts: whether an object is of that kind.
    several: the config takes any number of options, each under a name of its own, or none.
    partial: the target is completed later, so the node says `_partial_: true`.
    beside: keys and type hints that stand beside the target's arguments and are taken out before it is built.
    beside_of: a class whose arguments stand beside the target's.
    recorded: keys that a run's config.yaml must have; None: the whole node may be missing.
    made: what a task is handed that is made from it; a task that is not handed that has no use for the group.
    rebuilt: the task is built from it, so it is needed to load a checkpoint.
    compared: which of its settings are columns of TensorBoard's HPARAMS table.
    facts: names of FACTS that a target with an argument of that name is handed, at any depth. No config may set them.
    defaults: the same, for what a config may set: it is handed over where the config says nothing or null.
    """

    what: str
    accepts: Callable[[Any], bool]
    several: bool = False
    partial: bool = False
    beside: dict[str, Any] = field(default_factory=dict)
    beside_of: str | None = None
    recorded: tuple[str, ...] | None = ("_target_",)
    made: str | None = None
    rebuilt: bool = False
    compared: tuple[str, ...] | Literal["all"] = ()
    facts: tuple[str, ...] = ()
    defaults: tuple[str, ...] = ()

    @property
    def handed(self) -> tuple[str, ...]:
        return (*self.facts, *self.defaults)


def subclass_of(name: str) -> Callable[[Any], bool]:
    return lambda target: isinstance(target, type) and issubclass(target, pkgutil.resolve_name(name))


def returns_data(target: Any) -> bool:
    """A function with the annotation `-> Source` or `-> Datasets`. Others of athanor.data write files."""
    from athanor.data.sources.source import Source

    return returns(target, Source) or returns_datasets(target) or is_data_module(target)


def returns_datasets(target: Any) -> bool:
    from athanor.data.datasets import Datasets

    return returns(target, Datasets)


def returns(target: Any, kind: type) -> bool:
    return isinstance(target, FunctionType) and evaluated_hints(target).get("return") is kind


def is_data_module(target: Any) -> bool:
    """A class of LightningDataModules that is none of Athanor's own, which are made from what a function returns."""
    is_own = getattr(target, "__module__", "").startswith("athanor.data.")
    return subclass_of("lightning.pytorch.LightningDataModule")(target) and not is_own


def is_schedule(target: Any) -> bool:
    """One of torch's scheduler classes, or a closed form: a function of t, both floats where it has annotations."""
    if isinstance(target, type):
        return subclass_of("torch.optim.lr_scheduler.LRScheduler")(target)
    first, hints = next(iter(inspect.signature(target).parameters), None), evaluated_hints(target)
    return first == "t" and hints.get("t", float) is hints.get("return", float) is float


READING = {"in_memory": bool, "workers": int}  # keys of a data set that is made of torch Datasets


def is_augmentation(target: Any) -> bool:
    if isinstance(target, type):
        return any(
            subclass_of(name)(target) for name in ("athanor.data.augmentation.augment.Augment", "torch.nn.Module")
        )
    return next(iter(inspect.signature(target).parameters), None) == "images"


UNIT = "athanor.optim.schedules.Unit"
MODULE = ("a torch.nn.Module", subclass_of("torch.nn.Module"))

GROUPS: dict[str, Group] = {  # by the path of the node
    "task": Group(
        *MODULE,  # as its parts may be; check.py asks for a LightningModule
        rebuilt=True,
        compared="all",
        facts=("input_shape", "num_classes", "seed", "record", *MADE),
    ),
    "data": Group(
        "a function with the annotation -> Source or -> Datasets, or a LightningDataModule",
        returns_data,
        beside={"preprocess": dict, **READING},
        beside_of="athanor.data.module.ArrayData",
        recorded=("_target_",),
        compared="all",
        facts=("source", "data_dir", "seed"),
        defaults=("split_seed",),
    ),
    "data.preprocess": Group(
        "a Preprocess",
        subclass_of("athanor.data.preprocess.Preprocess"),
        rebuilt=True,
        facts=("input_shape",),
    ),
    "data.augment": Group(
        "an augmentation: an Augment, a torch.nn.Module, or a function whose first argument is `images`",
        is_augmentation,
        beside={"per_image": bool},
        recorded=None,
    ),
    "model": Group(
        *MODULE,
        beside={"freeze": list[str] | Literal["all_but_head"] | None, "freeze_epochs": int | None},
        made="network",
        rebuilt=True,
        compared="all",
        facts=("input_shape", "num_classes", "seed"),
    ),
    "init": Group(
        "an Initialise",
        subclass_of("athanor.models.initialise.Initialise"),
        made="network",
        compared="all",
        facts=("class_counts",),
    ),
    "loss": Group(
        *MODULE,
        made="loss",
        rebuilt=True,
        compared="all",
        facts=("input_shape", "num_classes", "class_counts", "seed"),
    ),
    "optim": Group(
        "an optimizer",
        subclass_of("torch.optim.Optimizer"),
        partial=True,
        beside={
            "lr_scaling": "athanor.optim.scaling.Rule",
            "base_batch": int,
            "lr_by_layer": float | None,
            "groups": list | None,
        },
        made="optimizer",
        rebuilt=True,
        compared="all",
    ),
    "scheduler": Group(
        "a schedule",
        is_schedule,
        partial=True,
        beside={
            "unit": UNIT,
            "length": float | None,
            "warmup": float,
            "warmup_unit": f"{UNIT} | None",
            "momentum": dict,
        },
        made="schedule",
        rebuilt=True,
        compared="all",
    ),
    "scheduler.momentum": Group("a schedule", is_schedule, beside={"length": float}, recorded=None),
    "metrics": Group(
        "a metric",
        lambda target: any(subclass_of(f"torchmetrics.{name}")(target) for name in ("Metric", "MetricCollection")),
        several=True,
        made="metrics",
        rebuilt=True,
        facts=("input_shape", "num_classes", "seed"),
    ),
    "callbacks": Group(
        "a callback",
        subclass_of("lightning.pytorch.callbacks.Callback"),
        several=True,
        facts=("agreement", "seed"),
    ),
    "logger": Group(
        "a logger",
        subclass_of("lightning.pytorch.loggers.logger.Logger"),
        several=True,
        facts=("parameters", "purge_step"),
        defaults=("save_dir", "version", "run_id"),
    ),
    "trainer": Group(
        "Lightning's Trainer",
        subclass_of("lightning.pytorch.trainer.trainer.Trainer"),
        beside={"precision": Literal["auto"]},
        recorded=("_target_", "accelerator", "devices", "strategy", "precision", "accumulate_grad_batches"),
        compared=("precision", "max_epochs", "accumulate_grad_batches"),
        facts=(
            "callbacks",
            "logger",
            "default_root_dir",
            "enable_checkpointing",
            "enable_progress_bar",
            "enable_model_summary",
            "num_sanity_val_steps",
        ),
    ),
    "trainer.profiler": Group(
        "a profiler",
        subclass_of("lightning.pytorch.profilers.Profiler"),
        recorded=None,
        defaults=("dirpath",),
    ),
}


def top_groups() -> dict[str, Group]:
    """The groups themselves, without nodes within them."""
    return {path: group for path, group in GROUPS.items() if "." not in path}


def top_level() -> set[str]:
    """All keys that a recorded config has at its top."""
    return {path.partition(".")[0] for path in (*SETTINGS, *GROUPS)}


def group_of(path: str) -> Group | None:
    """The row of a node: that of its path, or else of the nearest node around it."""
    while path and path not in GROUPS:
        path = path.rpartition(".")[0]
    return GROUPS.get(path)


def is_task(target: Any) -> bool:
    """Whether this class is a Task. Any other LightningModule is trained as it is."""
    return subclass_of("athanor.tasks.task.Task")(target)


def facts_for(path: str, target: Any) -> tuple[str, ...]:
    """What the target at `path` is handed if it has arguments of these names, and no config may set.

    A LightningModule that is no Task may have arguments of these names that mean something else.
    """
    return group_of(path).facts if path != "task" or is_task(target) else ()


def handed_to(path: str, target: Any) -> list[str]:
    """The arguments of the target at `path` that are handed to it, where they are known and no config sets them.

    Of a LightningModule that is no Task these are arguments without a default value.
    """
    names, _ = signature(target)
    given = [name for name in group_of(path).handed if name in names]
    return given if path != "task" or is_task(target) else [name for name in given if name in required(target)]


def unused(config: dict) -> list[str]:
    """The groups that its task has no use for: it is no Task, and is not handed what is made from them."""
    target = pkgutil.resolve_name(config["task"]["_target_"])
    if is_task(target):
        return []
    handed = handed_to("task", target)
    return [path for path, group in GROUPS.items() if group.made and group.made not in handed]


def recorded_paths(rebuilt_only: bool = False) -> Iterator[str]:
    """The places that a recorded config must have; rebuilt_only: those that the task of a checkpoint needs."""
    for path in SETTINGS:
        if path.partition(".")[0] in REBUILT_SETTINGS or not (rebuilt_only or path in REMARKS):
            yield path
    for path, group in GROUPS.items():
        if not group.several and (group.rebuilt or not rebuilt_only):
            yield from (f"{path}.{key}" for key in group.recorded or ())


def rebuilt_part(config: dict) -> dict[str, Any]:
    """The part of a config that the task is built from: not the data set, callbacks, loggers and trainer."""
    part = {key: config[key] for key in REBUILT_SETTINGS if key in config}
    for path in (path for path, group in GROUPS.items() if group.rebuilt):
        *above, key = path.split(".")
        source, target = config, part
        for name in above:
            source, target = source[name], target.setdefault(name, {})
        if key in source:
            target[key] = source[key]
    return part
