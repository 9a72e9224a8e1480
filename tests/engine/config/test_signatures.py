import typing
from collections.abc import Callable, Iterable
from typing import Any, Literal, Optional

import pytest
import torch

from athanor.base.errors import UserError
from athanor.engine.config.signatures import check_key, check_value, describe_hint, fits, signature

FITTING = [
    (3, int),
    (3, float),
    (-1.5, float),
    (True, bool),
    ("abc", str),
    (None, None | int),
    (None, type(None)),
    (None, Optional[int]),  # noqa: UP045
    (3, int | None),
    ("full", int | Literal["full"]),
    (2, Literal[1, 2]),
    ("max", Literal["min", "max"]),
    ([1, 2], list[int]),
    ([1, 2.5], list[float]),
    ([], list[int]),
    ([1, "a"], list),
    ([[1], [2, 3]], list[list[int]]),
    ([0.9, 0.999], tuple[float, float]),
    ([1, 2, 3], tuple[int, ...]),
    ([1], tuple),
    ("relu", str | list[str]),
    (["relu", "tanh"], str | list[str]),
    ([0.5], list[float] | Literal["balanced"] | None),
    ([1.0], Iterable[float]),
    ({"max": 1}, dict[str, int]),
    (Ellipsis, Any),
    (1, "a hint that is still text"),
    (1, typing.TypeVar("T")),
]
NOT_FITTING = [
    (True, int),
    (1.0, int),
    ("1", int),
    (None, int),
    ([1], int),
    (True, float),
    ("abc", float),
    ("1e-3", float),
    (1, bool),
    ("true", bool),
    (1, str),
    (None, str),
    (0, type(None)),
    (1.5, int | None),
    ("ful", int | Literal["full"]),
    (True, Literal[1, 2]),
    (1.0, Literal[1, 2]),
    ("mid", Literal["min", "max"]),
    ([1, "a"], list[int]),
    ([True], list[float]),
    (1, list[int]),
    ("abc", list[str]),
    ([0.9], tuple[float, float]),
    ([0.9, "a"], tuple[float, float]),
    ([1, "a"], tuple[int, ...]),
    ("abc", Iterable[float]),
    (0.5, Iterable[float]),
    ({"a": 1}, int),
    ("abc", torch.Tensor),
    (3, Callable[[int], int]),
    (3, torch.nn.Module),
]


@pytest.mark.parametrize("value, hint", FITTING, ids=str)
def test_values_that_fit(value, hint):
    assert fits(value, hint)
    check_value("optim.lr", value, hint, "Adam")


@pytest.mark.parametrize("value, hint", NOT_FITTING, ids=str)
def test_values_that_do_not_fit(value, hint):
    assert not fits(value, hint)
    with pytest.raises(UserError, match=r"^optim\.lr=.*: Adam takes "):
        check_value("optim.lr", value, hint, "Adam")


@pytest.mark.parametrize(
    "value, hint, message",
    [
        ("abc", float, r"optim\.lr=abc: Adam takes float"),
        (None, int, r"optim\.lr=null: Adam takes int"),
        (True, int | None, r"optim\.lr=true: Adam takes int or null"),
        (False, str, r"optim\.lr=false: Adam takes str"),
        (1, str, r"optim\.lr=1: Adam takes str"),
        (0, bool, r"optim\.lr=0: Adam takes bool"),
        (0.5, int | Literal["full"], r"optim\.lr=0\.5: Adam takes int or full"),
        ("mid", Literal["min", "max"], r"optim\.lr=mid: Adam takes min, max"),
        (1, list[int], r"optim\.lr=1: Adam takes a list of int"),
        ([1], tuple[float, float], r"optim\.lr=\[1\]: Adam takes a list of 2 float"),
        ("x", tuple[int, ...], r"optim\.lr=x: Adam takes a list of int"),
        (1, list, r"optim\.lr=1: Adam takes (a )?list"),
        (1, typing.List, r"optim\.lr=1: Adam takes (a )?list"),  # noqa: UP006
        ({"a": 1}, str, r"optim\.lr=\{'a': 1\}: Adam takes str"),
    ],
    ids=str,
)
def test_the_message_says_what_was_got_and_what_is_taken(value, hint, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        check_value("optim.lr", value, hint, "Adam")


def test_a_wrong_key_is_answered_with_the_nearest_or_with_all():
    check_key("optim.lr", ["lr", "betas"], "Adam")
    with pytest.raises(UserError, match=r"^optim\.beta: Adam has no 'beta'; did you mean betas\?$"):
        check_key("optim.beta", ["lr", "betas"], "Adam")
    with pytest.raises(UserError, match=r"^optim\.gamma: Adam has no 'gamma'; choose from: betas, lr$"):
        check_key("optim.gamma", ["lr", "betas"], "Adam")


def test_a_signature_is_what_a_function_or_a_class_takes():
    class Model:
        def __init__(self, width: int, *, depth: "int | None" = None) -> None: ...

    def load(path: str, options=None, *rest: int, **further: float) -> None: ...

    assert signature(Model) == ({"width": int, "depth": int | None}, False)
    assert signature(load) == ({"path": str, "options": Any}, True)


def test_a_hint_that_cannot_be_evaluated_checks_nothing():
    def load(path: "Missing") -> None: ...  # noqa: F821

    assert signature(load) == ({"path": Any}, False)


def test_the_arguments_of_an_optimizer_of_torch_are_known():
    hints, anything = signature(torch.optim.Adam)
    assert {"lr", "betas", "amsgrad"} <= hints.keys()
    assert not anything
    assert fits([0.9, 0.999], hints["betas"])
    assert not fits("abc", hints["lr"])


@pytest.mark.parametrize(
    "hint, text", [(type(None), "null"), (int | float | int, "int or float"), (torch.Tensor, "Tensor"), (bool, "bool")]
)
def test_hints_in_words(hint, text):
    assert describe_hint(hint) == text
