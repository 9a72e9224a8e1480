"""Texts from files, such as class names, as a terminal and a spreadsheet show them and do nothing else."""

import csv
import io
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # Unicode: control, format (as the direction), lone surrogate, line, paragraph
JOINERS = "\u200c\u200d"  # of this kind as well, and part of words in Persian and Hindi, and of emoji


def printable(text: str, keep: str = "") -> str:
    """A text in which each character that a terminal obeys, or cannot write, is its escape, as `\\x1b`.

    keep: such characters that stay, as "\\n" in a text of several lines. Letters of all scripts and spaces stay.
    """
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in UNSEEN and character not in JOINERS + keep
        else character
        for character in text
    )


def file_name(text: str) -> str:
    """A text as part of a file's name: what is no letter or digit of any script, `.`, `_` or `-` becomes `-`."""
    kept = (c if c.isalnum() or c in "._-" or unicodedata.category(c)[0] == "M" else " " for c in text)  # M: accents
    return re.sub(" +", "-", "".join(kept))


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as lines of CSV, quoted where a cell has a comma or a quotation mark.

    A spreadsheet runs a cell that begins with = + - or @ as a formula: a ' is put before a text that does and is no
    number. Characters that no screen shows are escaped, so that a row is a line.
    """
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows([_neutral(cell) for cell in row] for row in rows)
    return lines.getvalue()


def _neutral(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    text = printable(cell)
    if not text.startswith(("=", "+", "-", "@")):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text
