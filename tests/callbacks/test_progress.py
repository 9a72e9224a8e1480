"""The bar in a notebook, of which IPython is not there in the tests: a stand-in keeps what it is asked to show."""

import sys
from types import ModuleType

import pytest
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

from athanor.callbacks.progress import NotebookProgress


class Shown:
    """A place in the output of a cell."""

    def __init__(self) -> None:
        self.pages: list[str] = []

    def update(self, page: str) -> None:
        self.pages.append(page)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    shown, module = Shown(), ModuleType("IPython.display")
    module.HTML, module.display = str, lambda page, display_id: shown
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return shown


def test_it_is_drawn_over_itself_and_goes_at_the_end(shown, capsys):
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    bar = NotebookProgress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True)
    task = bar.add_task("epoch   1/2", total=20)
    bar.start()
    for step in 3, 4:
        bar.update(task, completed=step, refresh=True)
    assert "epoch   1/2" in shown.pages[0] and " 3/20" in shown.pages[0] and " 4/20" in shown.pages[1]
    bar.stop()
    assert shown.pages[-1] == "" and len(shown.pages) == 3
    assert capsys.readouterr() == ("", "")
