"""What a config may hold: one row a group.

Everything that checks, records, trusts, builds or compares a config reads it from here. A new group is one row in
GROUPS and its YAML files. Nothing heavy is imported: a type hint in quotes is the name of one, looked up when needed.
"""

import inspect
import pkgutil
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, Literal

from athanor.engine.config.signatures import evaluated_hints

# Values of train.yaml that belong to no group, with their type hints.
SETTINGS: dict[str, Any] = {
    "name": str,
    "seed": int,
    "data_dir": str,
    "weights": str | None,
    "resume": str | None,
    "run": str | None,
    "tags": list[str],
    "notes": str | None,
    "extra": Any,
    "monitor.metric": str,
    "monitor.mode": Literal["min", "max"],
    "eval.test": bool,
    "eval.tta": "athanor.tasks.tta.Kind",
    "compute.threads": int | None,
    "compute.compile": bool,
    "compute.matmul_precision": Literal["auto", "highest", "high", "medium"],
}
EXAMPLES = {
    "monitor": "monitor.metric=val/acc monitor.mode=max",
    "eval": "eval.tta=flip",
    "compute": "compute.threads=1",
}
REBUILT_SETTINGS = ("seed", "compute", "monitor", "eval")  # that the task of a checkpoint is built from
REMARKS = {"tags": [], "notes": None, "extra": {}}  # settings on which no result depends, empty as here
RENAMED = {  # old names of settings
    "threads": "compute.threads",
    "compile": "compute.compile",
    "matmul_precision": "compute.matmul_precision",
    "test": "eval.test",
}
UNRECORDED = ("launcher", "study")  # nodes on which no result depends, so no run records them


@dataclass(frozen=True)
class Group:
    """A group of the config, or a node within one. The first four fields judge targets that come from a file.

    what: the kind of object, for messages.
    accepts: whether an object is of that kind.
    modules: modules that may define it, including those below them.
    shortcuts: modules from which it may be imported besides, as torch.nn for torch.nn.modules.linear.
    several: the config takes any number of options, each under a name of its own, or none.
    partial: the target is completed later, so the node says `_partial_: true`.
    beside: keys and type hints that stand beside the target's arguments and are taken out before it is built.
    beside_of: a class whose arguments stand beside the target's.
    recorded: keys that a run's config.yaml must have; None: the whole node may be missing.
    rebuilt: the task is built from it, so it is needed to load a checkpoint.
    compared: which of its settings are columns of TensorBoard's HPARAMS table.
    """

    what: str
    accepts: Callable[[Any], bool]
    modules: tuple[str, ...]
    shortcuts: tuple[str, ...] = ()
    several: bool = False
    partial: bool = False
    beside: dict[str, Any] = field(default_factory=dict)
    beside_of: str | None = None
    recorded: tuple[str, ...] | None = ("_target_",)
    rebuilt: bool = False
    compared: tuple[str, ...] | Literal["all"] = ()


def subclass_of(name: str) -> Callable[[Any], bool]:
    return lambda target: isinstance(target, type) and issubclass(target, pkgutil.resolve_name(name))


def returns_source(target: Any) -> bool:
    """A function with the annotation `-> Source`. Other functions of athanor.data write files, as drop_colour does."""
    from athanor.data.sources.source import Source

    return isinstance(target, FunctionType) and evaluated_hints(target).get("return") is Source


def is_schedule(target: Any) -> bool:
    """One of torch's scheduler classes, or a closed form: a function of t, both floats."""
    if isinstance(target, type):
        return subclass_of("torch.optim.lr_scheduler.LRScheduler")(target)
    first, hints = next(iter(inspect.signature(target).parameters), None), evaluated_hints(target)
    return first == "t" and hints.get("t") is hints.get("return") is float


UNIT = "athanor.optim.schedules.Unit"
MODULE = ("a torch.nn.Module", subclass_of("torch.nn.Module"))

GROUPS: dict[str, Group] = {  # by the path of the node
    "data": Group(
        "a function with the annotation -> Source",
        returns_source,
        ("athanor.data",),
        beside={"preprocess": dict},
        beside_of="athanor.data.module.ImageData",
        recorded=("_target_", "split_seed"),
        compared="all",
    ),
    "data.preprocess": Group(
        "a Preprocess", subclass_of("athanor.data.preprocess.Preprocess"), ("athanor.data.preprocess",), rebuilt=True
    ),
    "data.augment": Group("an Augment", subclass_of("athanor.data.augment.Augment"), ("athanor.data.augment",)),
    "model": Group(*MODULE, ("athanor.models", "torch.nn.modules"), ("torch.nn",), rebuilt=True, compared="all"),
    "loss": Group(*MODULE, ("athanor.tasks.losses", "torch.nn.modules"), ("torch.nn",), rebuilt=True, compared="all"),
    "optim": Group(
        "an optimizer",
        subclass_of("torch.optim.Optimizer"),
        ("torch.optim", "athanor.optim"),
        partial=True,
        beside={"lr_scaling": "athanor.optim.scaling.Rule", "base_batch": int},
        rebuilt=True,
        compared="all",
    ),
    "scheduler": Group(
        "a schedule",
        is_schedule,
        ("torch.optim.lr_scheduler", "athanor.optim.schedules"),
        partial=True,
        beside={
            "unit": UNIT,
            "length": float | None,
            "warmup": float,
            "warmup_unit": f"{UNIT} | None",
            "momentum": dict,
        },
        rebuilt=True,
        compared="all",
    ),
    "scheduler.momentum": Group(
        "a schedule", is_schedule, ("athanor.optim.schedules",), beside={"length": float}, recorded=None
    ),
    "metrics": Group(
        "a metric",
        subclass_of("torchmetrics.Metric"),
        ("torchmetrics.classification",),  # the rest of torchmetrics has metrics that load networks from a path
        ("torchmetrics",),
        several=True,
        rebuilt=True,
    ),
    "callbacks": Group(
        "a callback",
        subclass_of("lightning.pytorch.callbacks.Callback"),
        ("lightning.pytorch.callbacks", "athanor.callbacks"),
        several=True,
    ),
    "logger": Group(
        "a logger",
        subclass_of("lightning.pytorch.loggers.logger.Logger"),
        ("lightning.pytorch.loggers", "athanor.training.loggers"),
        several=True,
    ),
    "trainer": Group(
        "Lightning's Trainer",
        subclass_of("lightning.pytorch.trainer.trainer.Trainer"),
        ("lightning.pytorch.trainer.trainer",),
        ("lightning.pytorch", "lightning"),
        beside={"precision": Literal["auto"]},
        recorded=("_target_", "accelerator", "devices", "strategy", "precision", "accumulate_grad_batches"),
        compared=("precision", "max_epochs", "accumulate_grad_batches"),
    ),
    "trainer.profiler": Group(
        "a profiler",
        subclass_of("lightning.pytorch.profilers.Profiler"),
        ("lightning.pytorch.profilers",),
        recorded=None,
    ),
}


def top_groups() -> dict[str, Group]:
    """The groups themselves, without nodes within them."""
    return {path: group for path, group in GROUPS.items() if "." not in path}


def top_level() -> set[str]:
    """All keys that a recorded config has at its top."""
    return {path.partition(".")[0] for path in (*SETTINGS, *GROUPS)}


def renamed(names: Container[str]) -> str:
    """A sentence on each of these names that is an old name of a setting; empty where there is none."""
    return ", ".join(f"{old} is called {new} now" for old, new in RENAMED.items() if old in names)


def group_of(path: str) -> Group | None:
    """The row of a node: that of its path, or else of the nearest node around it."""
    while path and path not in GROUPS:
        path = path.rpartition(".")[0]
    return GROUPS.get(path)


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
