"""Compares keys and values of a config with the signatures and type hints of the objects that take them."""

import functools
import inspect
import pkgutil
import types
import typing
from collections.abc import Callable, Iterable
from numbers import Number
from typing import Any, Literal, Union

from athanor.base.errors import UserError, nearest


def evaluated_hints(function: Callable) -> dict[str, Any]:
    """The type hints of a function; none where one of them cannot be evaluated, so that it proves nothing."""
    try:
        return typing.get_type_hints(function)
    except Exception:
        return {}


@functools.cache
def signature(target: Callable) -> tuple[dict[str, Any], bool]:
    """Names and type hints of a callable's arguments, and whether it takes any other name as well (**kwargs)."""
    hints = evaluated_hints(target.__init__ if isinstance(target, type) else target)
    parameters = inspect.signature(target).parameters.values()
    named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    return {p.name: hints.get(p.name, Any) for p in named}, any(p.kind is p.VAR_KEYWORD for p in parameters)


def required(target: Callable) -> list[str]:
    """The names of a callable's arguments that have no default value."""
    parameters = inspect.signature(target).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in parameters if p.default is p.empty and p.kind in kinds]


def type_hint(hint: Any) -> Any:
    """The hint itself, or the one that a text names: `athanor.tasks.tta.Kind`, with ` | None` where null is allowed."""
    if not isinstance(hint, str):
        return hint
    name, _, optional = hint.partition(" | ")
    return pkgutil.resolve_name(name) | None if optional else pkgutil.resolve_name(name)


def check_value(path: str, value: object, hint: Any, owner: str) -> None:
    """Raise UserError where a value is not what the hint asks for."""
    if not fits(value, hint):
        got = {type(None): "null", bool: str(value).lower()}.get(type(value), value)
        raise UserError(f"{path}={got}: {owner} takes {describe_hint(hint)}")


def check_key(path: str, names: Iterable[str], owner: str) -> None:
    """Raise UserError where the last part of a path is none of the names that its owner takes."""
    key = path.rpartition(".")[2]
    if key not in names:
        raise UserError(f"{path}: {owner} has no {key!r}; {nearest(key, names)}")


def check_arguments(target: Callable, positional: list, arguments: dict[str, Any], owner: str) -> None:
    """Raise UserError where an argument is missing, or is one too many."""
    try:
        inspect.signature(target).bind(*positional, **arguments)
    except TypeError as error:
        raise UserError(f"{owner}: {error}") from error


def fits(value: object, hint: Any) -> bool:
    """Whether a plain value of a config can be what a type hint asks for. A hint that cannot be judged fits all."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, (typing.TypeVar, str)) or (isinstance(value, dict) and "_target_" in value):
        return True  # nobody knows what a target makes before it is called
    if origin in (Union, types.UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is Literal:
        return any(value == arg and type(value) is type(arg) for arg in args)
    if hint in (float, Number):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str, type(None)):
        return isinstance(value, type(None) if hint is None else hint)
    container = origin or hint
    if container in (list, tuple) or isinstance(value, list):
        return isinstance(value, list) and fits_items(value, container, args)
    if isinstance(value, dict):
        return container is not None
    return not isinstance(value, (bool, int, float, type(None))) and not (isinstance(value, str) and known(container))


def fits_items(items: list, container: Any, args: tuple) -> bool:
    if container is tuple and args and args[-1] is not ...:
        return len(items) == len(args) and all(map(fits, items, args))
    return all(fits(item, args[0]) for item in items) if args else True


def known(container: Any) -> bool:
    """Whether the type belongs to a library of which no text can make an object."""
    return getattr(container, "__module__", "").partition(".")[0] in ("torch", "lightning", "collections", "datetime")


def describe_hint(hint: Any) -> str:
    """A type hint in words, for messages."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe_hint(arg) for arg in args))
    if origin is Literal:
        return ", ".join(dict.fromkeys(str(arg) for arg in args))
    if hint is type(None):
        return "null"
    if origin in (list, tuple):
        if not args:
            return "a list"
        number = f"{len(args)} " if origin is tuple and args[-1] is not ... else ""
        return f"a list of {number}{describe_hint(args[0])}"
    return getattr(hint, "__name__", str(hint))
