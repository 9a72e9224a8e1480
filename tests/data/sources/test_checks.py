"""Wrong sources, each with the one line that a person gets, and arrays that are taken as they are."""

import logging
import math

import numpy as np
import pytest
import torch

from athanor.base.errors import UserError
from athanor.data.sources import checks
from athanor.data.sources.source import Source

N = 12


def right(**changes):
    """The arguments of a right source of vectors, in 3 classes."""
    vectors, labels = torch.arange(N * 5.0).view(N, 5), torch.arange(N) % 3
    arguments = dict(train_inputs=vectors, train_targets=labels, test_inputs=vectors[:6], test_targets=labels[:6])
    return arguments | dict(class_names=("a", "b", "c"), origin="made") | changes


def both(kind, values):
    """These inputs or targets in train and in test."""
    return {f"train_{kind}": values, f"test_{kind}": values[:6]}


PICTURES = torch.zeros(N, 32, 32, 3, dtype=torch.uint8)
NANS = torch.zeros(N, 5)
NANS[[4, 7], 2] = math.nan
WRONG = {
    "float64 inputs": (
        both("inputs", np.zeros((N, 5))),
        r"train_inputs is float64 \[12, 5\], and inputs are .*; return .* float32: train_inputs.astype\('float32'\)$",
    ),
    "int32 inputs": (both("inputs", np.zeros((N, 5), np.int32)), r"indices \(of tokens\) as int64: .astype\('int64'\)"),
    "one number an input": (both("inputs", torch.zeros(N)), r"return \[N, 1\]: train_inputs\[:, None\]"),
    "channels last": (both("inputs", PICTURES), r"train_inputs.permute\(0, 3, 1, 2\), of a numpy array .transpose"),
    "lists": (both("inputs", [[1.0]] * N), "train_inputs is of the type list; return a numpy array or a torch tensor"),
    "text": (both("inputs", np.array([["x"]] * N)), r"numpy array of <U1 \[12, 1\]; return numbers"),
    "no inputs": ({"test_inputs": torch.zeros(0, 5)}, r"test_inputs is float32 \[0, 5\], and has no input"),
    "another shape": ({"test_inputs": torch.zeros(6, 4)}, r"float32 \[6, 4\] and train_inputs float32 \[12, 5\]; ret"),
    "another type": ({"test_inputs": torch.zeros(6, 5, dtype=torch.uint8)}, "test_inputs is uint8 .* return one type"),
    "another length": ({"train_targets": torch.zeros(9).long()}, "has 12 inputs, and train_targets 9 targets"),
    "labels from 1": (
        {"train_targets": torch.arange(N) % 3 + 1},
        r"train_targets lie in 1\.\.3, and 3 class_names are for 0\.\.2; return train_targets - 1$",
    ),
    "labels beyond": ({"train_targets": torch.arange(N)}, r"lie in 0\.\.11, and 3 class_names are for 0\.\.2$"),
    "float labels": (both("targets", torch.arange(N) % 3 * 1.0), r"return labels as int64: .astype\('int64'\), or"),
    "int32 labels": (both("targets", np.zeros(N, np.int32)), r"train_targets is int32 \[12\]; .*: .astype\('int64'\)$"),
    "half-precision targets": (both("targets", torch.zeros(N, 2).half()), r"numbers as float32: .astype\('float32'\)"),
    "nan in inputs": ({"train_inputs": NANS}, "has nan or infinite values in 2 of 12 rows .* first in row 4; leave"),
    "nan in targets": (both("targets", NANS) | {"class_names": ()}, "train_targets has nan or infinite values in 2"),
    "one half of a validation set": ({"val_inputs": torch.zeros(3, 5)}, "belong together; return both or none"),
    "nan in validation": ({"val_inputs": NANS, "val_targets": torch.zeros(N).long()}, "val_inputs has nan or infinite"),
    "groups by text": ({"groups": np.array(["p1"] * N)}, r"np.unique\(values, return_inverse=True\)\[1\]"),
    "groups of others": ({"groups": torch.zeros(4).long()}, r"groups is int64 \[4\]; .* training input, int64 \[12\]"),
    "groups and times": ({"groups": torch.zeros(N).long(), "times": torch.zeros(N)}, "ask for other splits; return on"),
    "two names": ({"class_names": ("a", "b", "a")}, "class_names has a name twice"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_source_is_refused_in_one_line(case):
    changes, message = WRONG[case]
    with pytest.raises(UserError, match=message) as error:
        Source(**right(**changes))
    assert "\n" not in str(error.value)


def test_arrays_are_taken_without_a_copy_and_memory_maps_stay_so(tmp_path, recwarn):
    values = np.random.default_rng(0).normal(size=(N, 5)).astype(np.float32)
    np.save(tmp_path / "inputs.npy", values)
    mapped = np.load(tmp_path / "inputs.npy", mmap_mode="r")
    source = Source(**right(**both("inputs", mapped), val_inputs=values, val_targets=np.zeros(N, np.int64)))
    assert source.train_inputs.data_ptr() == mapped.ctypes.data
    assert source.val_inputs.data_ptr() == values.ctypes.data
    assert not recwarn  # of torch, about memory that cannot be written to
    for other in (values[::-1], values.astype(">f4")):  # of which torch takes neither
        assert np.array_equal(Source(**right(train_inputs=other)).train_inputs.numpy(), other)
    assert not Source(**right(train_inputs=torch.zeros(N, 5, requires_grad=True))).train_inputs.requires_grad


def test_dates_are_times_and_names_may_be_anything_that_has_a_text():
    days = np.datetime64("2024-03-01") + np.arange(N)[::-1]
    source = Source(**right(times=days, class_names=range(3)))
    assert source.times.argsort().tolist() == list(range(N))[::-1]
    assert source.class_names == ("0", "1", "2")


def test_a_class_without_training_inputs_is_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        Source(**right(class_names=("a", "b", "c", "d")))
    assert "1 of 4 classes have no training input: d" in caplog.text


def test_of_a_large_array_evenly_spaced_rows_are_looked_at(monkeypatch):
    values = torch.zeros(100, 4)
    values[[50, 51]] = math.inf
    monkeypatch.setattr(checks, "CHECKED_BYTES", values.nbytes // 10)
    with pytest.raises(UserError, match=r"values in 1 of 10 rows that were looked at, .* row 50"):
        checks.refuse_non_finite("x", values)
    values[50] = 0
    checks.refuse_non_finite("x", values)
    checks.refuse_non_finite("x", torch.full((3, 3), 3e38))  # the sum of a row is infinite, and no value is
