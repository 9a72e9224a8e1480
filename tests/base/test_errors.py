"""The error for a person's mistakes, and the check that raises it."""

import pytest

from athanor.base.errors import UserError, require


def test_require_raises_its_message_where_the_condition_does_not_hold():
    require([8, 16], "model.widths=[] leaves no stage")
    with pytest.raises(UserError, match=r"^model\.widths=\[\] leaves no stage$"):
        require([], "model.widths=[] leaves no stage")
