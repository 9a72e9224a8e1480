"""Athanor: the craft of training networks, as things you can run."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from athanor.engine.app.from_python import compose, train

__all__ = ["compose", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from athanor.engine.app import from_python  # not before it is needed: it imports Hydra

    return getattr(from_python, name)
