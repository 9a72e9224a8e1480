"""What a config may build that comes from a file: a run's config.yaml, the record in a checkpoint.

A config that a person composes from their own configs/ is their own code, and not limited. A file may be anybody's,
and a name in it is a way to run code: `lightning.pytorch.loggers.tensorboard.os.makedirs` starts like an honest one.
So what counts is where the object is defined and what it is, by the group it stands in; and a module that cannot
define a right one is not imported, as that runs code already. The environment variable ATHANOR_TRUST names modules
to build from as well.
"""

import importlib
import inspect
import os
import pkgutil
import re
import sys
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from athanor.base.errors import UserError

VARIABLE = "ATHANOR_TRUST"
NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)


@dataclass(frozen=True)
class Rule:
    """What a group's target is. `modules` define it, they and those below them; `shortcuts` only have its name."""

    what: str
    modules: tuple[str, ...]
    fits: Callable[[Any], bool]
    shortcuts: tuple[str, ...] = ()


def subclass_of(name: str) -> Callable[[Any], bool]:
    return lambda found: isinstance(found, type) and issubclass(found, pkgutil.resolve_name(name))


def gives_source(found: Any) -> bool:
    """Other functions of athanor.data write files, such as decode.drop_colour."""
    from athanor.data.sources.source import Source

    return isinstance(found, FunctionType) and annotations(found).get("return") is Source


def is_schedule(found: Any) -> bool:
    """A class of torch's, or a closed form: f(t, ...) -> float."""
    if isinstance(found, type):
        return subclass_of("torch.optim.lr_scheduler.LRScheduler")(found)
    first, hints = next(iter(inspect.signature(found).parameters), None), annotations(found)
    return first == "t" and hints.get("t") is hints.get("return") is float


def annotations(found: FunctionType) -> dict[str, Any]:
    try:
        return typing.get_type_hints(found)
    except Exception:  # one that cannot be evaluated says nothing
        return {}


NETWORK = Rule(
    "a torch.nn.Module",
    ("athanor.models", "athanor.tasks.losses", "athanor.data.preprocess", "torch.nn.modules"),
    subclass_of("torch.nn.Module"),
    ("torch.nn",),
)
RULES = {  # by the path of a node; what stands in a node follows its rule
    "model": NETWORK,
    "loss": NETWORK,
    "data": Rule("a function with the annotation -> Source", ("athanor.data",), gives_source),
    "data.preprocess": Rule(
        "a Preprocess", ("athanor.data.preprocess",), subclass_of("athanor.data.preprocess.Preprocess")
    ),
    "data.augment": Rule("an Augment", ("athanor.data.augment",), subclass_of("athanor.data.augment.Augment")),
    "optim": Rule("an optimizer", ("torch.optim", "athanor.optim"), subclass_of("torch.optim.Optimizer")),
    "scheduler": Rule("a schedule", ("torch.optim.lr_scheduler", "athanor.optim.schedules"), is_schedule),
    "scheduler.momentum": Rule("a schedule", ("athanor.optim.schedules",), is_schedule),
    # the rest of torchmetrics has metrics that load networks from a path
    "metrics": Rule(
        "a metric", ("torchmetrics.classification",), subclass_of("torchmetrics.Metric"), ("torchmetrics",)
    ),
    "callbacks": Rule(
        "a callback",
        ("lightning.pytorch.callbacks", "athanor.callbacks"),
        subclass_of("lightning.pytorch.callbacks.Callback"),
    ),
    "logger": Rule(
        "a logger",
        ("lightning.pytorch.loggers", "athanor.training.loggers"),
        subclass_of("lightning.pytorch.loggers.logger.Logger"),
    ),
    "trainer": Rule(
        "Lightning's Trainer",
        ("lightning.pytorch.trainer.trainer",),
        subclass_of("lightning.pytorch.trainer.trainer.Trainer"),
        ("lightning.pytorch", "lightning"),
    ),
    "trainer.profiler": Rule(
        "a profiler", ("lightning.pytorch.profilers",), subclass_of("lightning.pytorch.profilers.profiler.Profiler")
    ),
}


def check(config: dict) -> None:
    """Raise UserError at the first target that a loaded config may not build. Nothing is built."""
    for path, target in targets(config):
        if reason := refusal(path, target):
            raise UserError(reason)


def modules_of(config: dict) -> set[str]:
    """The modules that ATHANOR_TRUST has to name for this config to be loaded: for processes that a run starts."""
    found = set()
    for path, target in targets(config):
        if isinstance(target, str) and refusal(path, target):
            try:
                defined = getattr(pkgutil.resolve_name(target), "__module__", None)
            except Exception:  # who builds it says what is wrong with it
                continue
            found |= {target.rpartition(".")[0], defined or "builtins"}
    return found


def add(modules: Iterable[str]) -> None:
    """Trust these as well, in this process and in those that it starts."""
    os.environ[VARIABLE] = ",".join(filter(None, [os.environ.get(VARIABLE), *sorted(modules)]))


def targets(node: object, path: str = "") -> Iterator[tuple[str, Any]]:
    """Path and `_target_` of each node that has one, in lists too."""
    if isinstance(node, list):
        node = dict(enumerate(node))
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node["_target_"]
        for key, value in node.items():
            yield from targets(value, f"{path}.{key}" if path else str(key))


def refusal(path: str, target: object) -> str | None:
    """Why a loaded config may not build this, in one or two lines; None if it may."""
    where = f"{path}._target_"
    if not isinstance(target, str) or len(target) > 200 or not NAME.fullmatch(target):
        return f"{where} is no name of a class or a function"
    where, rule, (module, _, name) = f"{where}={target}", rule_of(path), target.rpartition(".")
    if is_trusted(target):
        return None
    if rule is None or not (is_below(module, rule.modules) or module in rule.shortcuts):
        return foreign(where, module)
    try:
        found = vars(importlib.import_module(module))[name]  # one step, and no module's __getattr__
    except Exception as error:
        return f"{where} cannot be imported: {str(error).partition(chr(10))[0]}"
    home = definition(found)
    if home is None:
        return f"{where} is neither a class nor a function of a module"
    if not is_below(home, rule.modules):
        return foreign(where, home)
    return None if rule.fits(found) else f"{where} is not {rule.what}"


def rule_of(path: str) -> Rule | None:
    """That of the path, or else of the nearest node around it."""
    while path and path not in RULES:
        path = path.rpartition(".")[0]
    return RULES.get(path)


def is_trusted(target: str) -> bool:
    trusted = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    if target.partition(".")[0] not in {name.partition(".")[0] for name in trusted}:
        return False  # before anything is imported
    try:
        found = pkgutil.resolve_name(target)
    except Exception as error:
        text = str(error).partition("\n")[0]
        raise UserError(f"{target} cannot be imported: {text}") from error
    return is_below(getattr(found, "__module__", None) or "", trusted)


def is_below(module: str, above: Iterable[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in above)


def definition(found: Any) -> str | None:
    """The module of a class or a named function that stands in it; None for all else: instances, methods, lambdas."""
    if not isinstance(found, (type, FunctionType)):
        return None
    home = sys.modules.get(found.__module__)
    return found.__module__ if home and vars(home).get(found.__qualname__) is found else None


def foreign(where: str, module: str) -> str:
    line = f"{where} is defined in {module}, and a loaded config may not build from there"
    if module.partition(".")[0] in sys.stdlib_module_names:  # nobody trains with those
        return line
    return f"{line}\n  if you wrote or trust that code: {VARIABLE}={module} <the same command>"
