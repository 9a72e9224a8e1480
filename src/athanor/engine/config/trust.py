"""What a config may build that comes from a file: a run's config.yaml, the record in a checkpoint.

The rule: from a file are built only targets of the right kind that are defined in this project's package, named by the
YAML files that it ships, or in modules of `trust:` in configs/local (found from the project's folder, without
PYTHONPATH). ${oc.env:NAME} stays a text in `logger.*` only; elsewhere the value is recorded. URLs and paths outside the
run are refused from a file, unless they are the data's, or equal to what the person's own config or command line gives
(places.py). That a run was built here is recorded outside the run (built_here.py), and what a person has composed from
their own configs/ is not limited. `evaluate` and `predict` look only at what they build.

A name in a file is a way to run code: `lightning.pytorch.loggers.tensorboard.os.makedirs` begins like a right one. So
the object itself is judged: in which module it is defined, and of which kind it is, by the row of its group in
schema.py. An object within a node, in a list or not, is judged by the nearest row around it: the parts of a model are
modules, those of a callback callbacks. A module that cannot define a right one is not imported, because importing runs
code already.
"""

import importlib
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from types import FunctionType
from typing import Any

from omegaconf import OmegaConf

from athanor.base.error_place import told
from athanor.base.errors import UserError, first_line, require
from athanor.engine.config import built_here, options, places, schema

NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
TARGET = re.compile(r"_target_: *([\w.]+)")  # in a YAML file
PACKAGE = __name__.partition(".")[0]


def check(config: dict, part: dict | None = None, typed: Collection[str] = ()) -> None:
    """Raise UserError where a loaded config names what it may not build, or a place where it may not write.

    part: what is going to be built of the config, if not all. typed: words that replace settings of it.
    """
    if not built_here.is_listed(config):
        part = config if part is None else part
        check_targets(part)
        places.check(part, typed)


def check_targets(config: dict) -> None:
    """Raise UserError at the first target that a loaded config may not build. Nothing is built."""
    shipped, trusted = shipped_targets(), [PACKAGE, *trusted_modules()]
    for path, target in targets(config):
        if reason := refusal(path, target, shipped, trusted):
            raise UserError(reason)


def shipped_targets() -> set[str]:
    """The targets that YAML files of configs/ name, those that a person has added included."""
    return {name for path in options.CONFIGS.rglob("*.yaml") for name in TARGET.findall(path.read_text("utf-8"))}


def trusted_modules() -> list[str]:
    """What `trust:` in the person's own settings lists."""
    path = options.CONFIGS / "local" / "default.yaml"
    modules = (OmegaConf.load(path) or {}).get("trust") if path.is_file() else None
    are_names = OmegaConf.is_list(modules) and all(isinstance(name, str) for name in modules)
    require(modules is None or are_names, f"{path}: trust: {modules} is no list of modules; write trust: [mypackage]")
    return list(modules or ())


def targets(node: object, path: str = "") -> Iterator[tuple[str, Any]]:
    """Path and `_target_` of each node that has one, those in lists included."""
    if isinstance(node, list):
        node = dict(enumerate(node))
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node["_target_"]
        for key, value in node.items():
            yield from targets(value, f"{path}.{key}" if path else str(key))


def refusal(path: str, target: object, shipped: Collection[str], trusted: Collection[str]) -> str | None:
    """Why a loaded config may not build this, in one or two lines; None if it may."""
    where = f"{path}._target_"
    if not isinstance(target, str) or len(target) > 200 or not NAME.fullmatch(target):
        return f"{where} is no name of a class or a function"
    where, group, (module, _, name) = f"{where}={target}", schema.group_of(path), target.rpartition(".")
    if group is None or not (target in shipped or is_below(module, trusted)):
        return foreign(where, module)
    try:
        named = vars(importlib.import_module(module))[name]  # one step only, and no __getattr__ of a module is called
    except Exception as error:
        return f"{where} cannot be imported: {told(error) or first_line(error)}"
    home = definition(named)
    if home is None:
        return f"{where} is neither a class nor a function of a module"
    if not (target in shipped or is_below(home, trusted)):
        return foreign(where, home)
    return None if group.accepts(named) else f"{where} is not {group.what}"


def is_below(module: str, above: Iterable[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in above)


def definition(named: Any) -> str | None:
    """The module that defines a class or a function at its top; None for all else: instances, methods, lambdas."""
    if not isinstance(named, (type, FunctionType)):
        return None
    home = sys.modules.get(named.__module__)
    return named.__module__ if home and vars(home).get(named.__qualname__) is named else None


def foreign(where: str, module: str) -> str:
    """The refusal of an object of this module, with what to write where the person may want to allow it."""
    line = f"{where} is defined in {module}, and a loaded config may not build from there"
    if module.partition(".")[0] in sys.stdlib_module_names:  # no training needs those
        return line
    return f"{line}\n  if you wrote or trust that code, put trust: [{module}] into configs/local/default.yaml"
