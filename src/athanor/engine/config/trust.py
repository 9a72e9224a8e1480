"""What a config may build that comes from a file: a run's config.yaml, the record in a checkpoint.

A config that a person composes from their own configs/ is their own code, and is not limited. A file may come from
anybody, and a name in it is a way to run code: `lightning.pytorch.loggers.tensorboard.os.makedirs` begins like a right
one. So the object itself is judged, by the row of its group in schema.py: in which module it is defined, and of which
kind it is. An object within a node, in a list or not, is judged by the nearest row around it: the parts of a model are
modules, those of a callback callbacks. A module that cannot define a right one is not imported, because importing runs
code already. The environment variable ATHANOR_TRUST names further modules from which anything may be built.
"""

import importlib
import os
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator
from types import FunctionType
from typing import Any

from athanor.base.errors import UserError, first_line
from athanor.engine.config import schema

VARIABLE = "ATHANOR_TRUST"
NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)


def check_targets(config: dict) -> None:
    """Raise UserError at the first target that a loaded config may not build. Nothing is built."""
    for path, target in targets(config):
        if reason := refusal(path, target):
            raise UserError(reason)


def modules_of(config: dict) -> set[str]:
    """The modules that ATHANOR_TRUST has to name for this config to be loaded in processes that a run starts."""
    modules = set()
    for path, target in targets(config):
        if isinstance(target, str) and refusal(path, target):
            try:
                defined = getattr(pkgutil.resolve_name(target), "__module__", None)
            except Exception:  # building it will say what is wrong with it
                continue
            modules |= {target.rpartition(".")[0], defined or "builtins"}
    return modules


def extend(modules: Iterable[str]) -> None:
    """Trust these modules as well, in this process and in those that it starts."""
    os.environ[VARIABLE] = ",".join(filter(None, [os.environ.get(VARIABLE), *sorted(modules)]))


def targets(node: object, path: str = "") -> Iterator[tuple[str, Any]]:
    """Path and `_target_` of each node that has one, those in lists included."""
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
    where, group, (module, _, name) = f"{where}={target}", schema.group_of(path), target.rpartition(".")
    if is_trusted(target):
        return None
    if group is None or not (is_below(module, group.modules) or module in group.shortcuts):
        return foreign(where, module)
    try:
        named = vars(importlib.import_module(module))[name]  # one step only, and no __getattr__ of a module is called
    except Exception as error:
        return f"{where} cannot be imported: {str(error).partition(chr(10))[0]}"
    home = definition(named)
    if home is None:
        return f"{where} is neither a class nor a function of a module"
    if not is_below(home, group.modules):
        return foreign(where, home)
    return None if group.accepts(named) else f"{where} is not {group.what}"


def is_trusted(target: str) -> bool:
    trusted = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    if target.partition(".")[0] not in {name.partition(".")[0] for name in trusted}:
        return False  # before anything is imported
    try:
        named = pkgutil.resolve_name(target)
    except Exception as error:
        raise UserError(f"{target} cannot be imported: {first_line(error)}") from error
    return is_below(getattr(named, "__module__", None) or "", trusted)


def is_below(module: str, above: Iterable[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in above)


def definition(named: Any) -> str | None:
    """The module that defines a class or a function at its top; None for all else: instances, methods, lambdas."""
    if not isinstance(named, (type, FunctionType)):
        return None
    home = sys.modules.get(named.__module__)
    return named.__module__ if home and vars(home).get(named.__qualname__) is named else None


def foreign(where: str, module: str) -> str:
    """The refusal of an object of this module, with what to type where the person may want to allow it."""
    line = f"{where} is defined in {module}, and a loaded config may not build from there"
    if module.partition(".")[0] in sys.stdlib_module_names:  # no training needs those
        return line
    return f"{line}\n  if you wrote or trust that code: {VARIABLE}={module} <the same command>"
