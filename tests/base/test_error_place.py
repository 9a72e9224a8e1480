"""Which lines of a traceback are a person's own."""

import collections
import subprocess
import sys
import textwrap

import pytest
import torch
from torch.utils.data import DataLoader

from athanor.base import error_place, errors
from athanor.models import linear


def caught(function, *arguments):
    with pytest.raises(Exception) as caught:
        function(*arguments)
    return caught.value


def test_own_is_what_belongs_to_no_library_and_to_the_rooms_that_people_add_to():
    assert error_place.owner(__file__) == error_place.OUTSIDE
    assert error_place.owner(linear.__file__) == "models"
    assert error_place.owner(errors.__file__) == "base" not in error_place.OWN
    for library in collections.__file__, torch.__file__, "<string>", "/nowhere/mine.py":
        assert error_place.owner(library) is None


def test_the_script_that_runs_is_not_ones_own(tmp_path):
    script = tmp_path / "train.py"
    script.write_text("from athanor.base import error_place\nprint(error_place.owner(__file__))\n")
    assert subprocess.run([sys.executable, script], capture_output=True, text=True).stdout == "None\n"


def test_a_circle_of_errors_is_gone_round_once():
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert list(error_place.chain(first)) == [first, second]


def test_the_error_that_is_told_is_the_one_that_ones_own_code_has_raised():
    def wrapped():
        try:
            {}["absent"]
        except KeyError as error:
            raise RuntimeError("a library wraps it") from error

    error = caught(wrapped)
    assert error_place.told(error).startswith("RuntimeError: a library wraps it\n  ")
    error.__traceback__ = None  # nothing of ours has raised it
    first, place = error_place.told(error).splitlines()
    assert first == "KeyError: 'absent'" and place.endswith(': {}["absent"]')


class Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, i):
        raise ValueError("two\nlines")  # in a worker


def test_an_error_of_a_worker_of_any_loader_is_told_as_it_was_there():
    error = caught(lambda: list(DataLoader(Broken(), num_workers=1)))
    assert str(error).startswith("Caught ValueError in DataLoader worker process 0.")
    assert error_place.name_and_text(error) == ("ValueError", "two\nlines")
    first, place = error_place.told(error).splitlines()
    assert first == "ValueError: two" and place.endswith('raise ValueError("two\\nlines")  # in a worker')


def test_a_debugger_opens_at_ones_own_line_and_not_in_the_library_that_it_calls():
    error = caught(lambda: textwrap.shorten(3, 10))
    cut = error_place.own_traceback(error)
    while cut.tb_next:
        cut = cut.tb_next
    assert cut.tb_frame.f_code.co_filename == __file__
    assert cut.tb_frame.f_code.co_name == "<lambda>"
