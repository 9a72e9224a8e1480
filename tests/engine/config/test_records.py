"""What a checkpoint's record may say of the inputs of its model."""

from pathlib import Path

import pytest

from athanor.base.errors import UserError
from athanor.engine.config.records import check_described

COLUMN = {"name": "size", "mean": 1.5, "categories": None}


def record(**changes):
    return {"config": {}, "input_shape": [5], "class_names": ["a"]} | changes


def test_an_older_record_is_of_bytes_and_a_shape_may_have_any_length():
    older = record()
    check_described(older, Path("x.ckpt"))
    assert (older["input_dtype"], older["columns"]) == ("uint8", None)
    check_described(record(input_shape=[2, 3, 4, 5], input_dtype="int64", columns=[COLUMN]), Path("x.ckpt"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_shape": []}, "its input_shape is no list of sizes"),
        ({"input_shape": [3, 0]}, "its input_shape is no list of sizes"),
        ({"input_dtype": "float64"}, "its input_dtype is none of uint8, uint16, int16, float32, int64"),
        ({"columns": {}}, "its columns do not say how a table is encoded"),
        ({"columns": [{"name": "size"}]}, "its columns do not say how a table is encoded"),
        ({"columns": [COLUMN | {"mean": "1"}]}, "its columns do not say how a table is encoded"),
    ],
)
def test_a_record_of_other_things_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        check_described(record(**changes), Path("x.ckpt"))
