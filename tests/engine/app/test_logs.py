"""Colours of what is logged: in terminals that have them, and nowhere else."""

import io
import logging

import pytest

from athanor.engine.app.logs import Coloured, has_colours


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "variables", "expected"),
    [
        (Terminal(), {"TERM": "xterm"}, True),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": ""}, True),  # no-color.org: where it is not empty
        (Terminal(), {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {"TERM": "xterm"}, False),
        (None, {"TERM": "xterm"}, False),
    ],
)
def test_colours_need_a_terminal_that_has_them_and_a_person_who_wants_them(stream, variables, expected, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert has_colours(stream) == expected


@pytest.mark.parametrize(("level", "code"), [(logging.INFO, ""), (logging.WARNING, "33"), (logging.ERROR, "31")])
def test_warnings_are_yellow_and_errors_red(level, code):
    text = Coloured().format(logging.makeLogRecord({"msg": "a %s", "args": ("line",), "levelno": level}))
    assert text == (f"\x1b[{code}ma line\x1b[0m" if code else "a line")
