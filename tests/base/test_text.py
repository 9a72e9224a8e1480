import csv
import io

import pytest

from athanor.base.files import write_csv
from athanor.base.text import csv_text, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two words", "two words"),
        ("köt 猫 नमस्ते \u0645\u06cc\u200c\u062e", "köt 猫 नमस्ते \u0645\u06cc\u200c\u062e"),  # a joiner is part of a word
        ("new\nline\tand\r", "new\\nline\\tand\\r"),
        ("\x1b[31mred\x9b0m", "\\x1b[31mred\\x9b0m"),
        (b"latin\xe9".decode(errors="surrogateescape"), "latin\\udce9"),
        ("png.\u202egpj", "png.\\u202egpj"),  # would be shown from right to left
        ("line\u2028break", "line\\u2028break"),
    ],
)
def test_what_a_terminal_obeys_is_escaped_and_letters_of_all_scripts_stay(text, shown):
    assert printable(text) == shown
    shown.encode()


def test_the_lines_of_a_text_stay_where_it_has_some():
    assert printable("error: a\x1b\n  b", keep="\n") == "error: a\\x1b\n  b"


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+trainer.max_time=1", "'+trainer.max_time=1"),
        ("-", "'-"),
        ("-0.5", "-0.5"),
        ("+1e-3", "+1e-3"),
        ("-inf", "-inf"),
        ("\t=1+1", "\\t=1+1"),
        ("a=b", "a=b"),
        ("crane, bird", "crane, bird"),
        ('say "cheese"', 'say "cheese"'),
        ("new\nline", "new\\nline"),
        (-0.5, "-0.5"),
        (None, ""),
    ],
)
def test_a_cell_is_text_and_no_formula_and_a_row_is_a_line(cell, written):
    text = csv_text([["a", "b"], [cell, "last"]])
    assert text.count("\n") == 2
    assert list(csv.reader(io.StringIO(text))) == [["a", "b"], [written, "last"]]


def test_rows_of_other_keys_share_one_table_and_heads_are_cells_too(tmp_path):
    write_csv(tmp_path / "a.csv", [{"=x": 1}, {"y, z": 2}])
    assert (tmp_path / "a.csv").read_text() == '\'=x,"y, z"\n1,\n,2\n'
