"""The error for a person's mistakes, and the check that raises it."""

import pytest

from athanor.base.errors import UserError, closest, nearest, require


def test_require_raises_its_message_where_the_condition_does_not_hold():
    require([8, 16], "model.widths=[] leaves no stage")
    with pytest.raises(UserError, match=r"^model\.widths=\[\] leaves no stage$"):
        require([], "model.widths=[] leaves no stage")


def test_the_nearest_name_is_found_in_small_and_capital_letters():
    assert nearest("AdamW", ["sgd", "adamw"]) == "did you mean adamw?"
    assert nearest("SDG", ["sgd", "Adam"]) == "did you mean sgd?"
    assert nearest("adm", ["sgd", "Adam"]) == "did you mean Adam?"
    assert nearest("x", ["sgd", "Adam"]) == "choose from: Adam, sgd"
    assert (closest("Lr", ["lr", "lrr"], 1), closest("l", ["lr"], 1)) == ("lr", None)
