"""Which checkpoints may be averaged into a soup."""

from types import SimpleNamespace

import pytest

from athanor.base.errors import UserError
from athanor.engine.runs.ensembles.members import refuse_other_starts


def member(name, **changes):
    config = {"model": {"width": 1}, "data": {"preprocess": {"_target_": "a"}}}
    return SimpleNamespace(name=name, record={"config": config, "start": "0"} | changes)


def test_what_began_as_one_network_is_taken():
    refuse_other_starts([member("a"), member("b")])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"start": "1"}, "b and a started from other weights"),
        ({"members": []}, "b is an ensemble"),
        ({"config": {"model": {"width": 2}, "data": {"preprocess": {"_target_": "a"}}}}, "b has other settings"),
        ({"config": {"model": {"width": 1}, "data": {"preprocess": {"_target_": "b"}}}}, "b has other settings"),
    ],
)
def test_what_did_not_is_refused(changes, text):
    with pytest.raises(UserError, match=text):
        refuse_other_starts([member("a"), member("b", **changes)])


def test_a_checkpoint_from_before_starts_were_recorded_is_refused():
    old = member("old")
    del old.record["start"]
    with pytest.raises(UserError, match="old was written before"):
        refuse_other_starts([old, member("a")])
