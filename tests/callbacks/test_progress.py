"""What is seen of a training: a bar in a terminal and in a notebook, and lines anywhere else.

Of the terminal and of IPython, which are not there in the tests, stand-ins keep what they are asked to show.
"""

import io
import logging
import re
import sys
from types import ModuleType, SimpleNamespace

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import Timer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

from athanor.base.errors import UserError
from athanor.callbacks import progress
from athanor.callbacks.progress import EpochProgress, NotebookProgress, clock, noun_of
from athanor.engine.app.logs import Coloured

SHORT = ["trainer.max_epochs=2", "+trainer.limit_train_batches=3", "model=linear", "logger=null"]
AT_ONCE = "callbacks.progress.line_seconds=1e-9"  # a line for each batch
LEFT = r"   left \d+:\d\d, run \d+:\d\d"


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


# lines, where there is no terminal


def batch_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if " batch " in line]


def test_lines_say_epoch_batch_loss_speed_and_time_left_and_the_best_epochs_are_marked(train, tmp_path):
    ran = train(*SHORT, AT_ONCE, "hydra.run.dir=a")
    assert (ran.code, ran.err) == (0, "")
    lines = batch_lines(ran.out)
    trained = [line for line in lines if re.match(r"epoch   [12]/2   batch", line)]
    assert len(trained) == 2 * 3
    # the first comes before a batch has been counted
    assert re.fullmatch(rf"epoch   2/2   batch 2/3   loss \d\.\d{{4}}   [\d,]+ images/s{LEFT}", trained[4])
    assert re.search(rf"epoch   1/2 validation   batch 1/1   loss {trained[2].split('loss ')[1][:6]}", ran.out)
    assert re.search(r"^test   batch 1/1 ", ran.out, re.MULTILINE)
    ended = [line for line in ran.out.splitlines() if " s   train acc" in line]
    losses = [float(re.search(r"val acc .* loss (\S+)", line)[1]) for line in ended]
    assert [line.endswith("   best") for line in ended] == [True, losses[1] < losses[0]]
    log = (tmp_path / "a" / "train.log").read_text()
    assert [line.partition("INFO ")[2] for line in batch_lines(log)] == lines
    assert "\x1b" not in log + ran.out


def test_an_epoch_in_which_a_run_is_resumed_has_lines_too(train, interrupted):
    with interrupted(5):
        train(*SHORT, "callbacks.checkpoints.every_minutes=1e-9", AT_ONCE, "hydra.run.dir=a")
    ran = train("resume=a")
    assert ran.code == 0, ran.err
    trained = [line for line in batch_lines(ran.out) if re.match("epoch   2/2   batch", line)]
    assert [re.search(r"batch (\d)/3", line)[1] for line in trained] == ["2", "3"]


@pytest.mark.parametrize(
    "words", [["data.val_fraction=0", "callbacks.early_stopping=null"], ["callbacks.checkpoints=null"]]
)
def test_without_validation_or_checkpoints_no_epoch_is_marked(words, train):
    ran = train(*SHORT, *words)
    assert ran.code == 0, ran.err
    assert "epoch   2/2" in ran.out and "   best" not in ran.out


class Silent(L.LightningModule):
    """Optimizes by hand, and its steps return a tensor that is no loss."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return {"loss": torch.zeros(2)} if batch_idx else None

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(torch.zeros(3, 1))


def test_a_module_without_a_loss_and_a_loader_without_a_length_have_lines(make_trainer, caplog):
    caplog.set_level(logging.INFO)
    make_trainer(callbacks=[EpochProgress(0.2, 1e-9)], enable_progress_bar=True).fit(
        Silent(), torch.utils.data.DataLoader(Endless())
    )
    lines = [record.getMessage() for record in caplog.records if record.name == progress.__name__]
    assert lines[:3] == ["epoch   1/1   batch 1", "epoch   1/1   batch 2", "epoch   1/1   batch 3"]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time on the clock of the progress, in seconds."""
    now = [100.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def stand_in(**values: object) -> SimpleNamespace:
    """A trainer in the first of two epochs with 10 batches each, of which this process has made 4."""
    settings = dict(max_epochs=2, max_steps=-1, global_step=4, accumulate_grad_batches=1, num_training_batches=10)
    state = dict(callbacks=[], datamodule=None, training=True, testing=False, current_epoch=0, is_global_zero=True)
    return SimpleNamespace(**settings | state | values, fit_loop=SimpleNamespace(total_batch_idx=3))


class Unread(torch.Tensor):
    """A loss on a device that would have to be waited for."""

    def item(self):
        raise AssertionError("it was read")


def test_the_loss_is_read_only_for_a_line_that_is_due(now, caplog):
    caplog.set_level(logging.INFO)
    shown, trainer = EpochProgress(0.2, 30), stand_in()
    shown.setup(trainer, None, "fit")
    shown.began, shown.batches_before = 90.0, 0
    now[0] += 29
    shown.on_train_batch_end(trainer, None, {"loss": torch.zeros(()).as_subclass(Unread)}, None, 3)
    assert caplog.messages == []
    now[0] += 2
    shown.on_train_batch_end(trainer, None, {"loss": torch.tensor(0.5)}, None, 3)
    # 41 s for 4 batches
    assert caplog.messages == ["epoch   1/2   batch 4/10   loss 0.5000   left 1:02, run 2:44"]
    now[0] += 29
    shown.on_train_batch_end(trainer, None, {"loss": torch.zeros(()).as_subclass(Unread)}, None, 4)


def test_other_processes_than_the_main_one_say_nothing(now, caplog):
    shown, trainer = EpochProgress(0.2, 1e-9), stand_in(is_global_zero=False)
    shown.setup(trainer, None, "fit")
    now[0] += 10**9
    shown.on_train_batch_end(trainer, None, {"loss": torch.zeros(()).as_subclass(Unread)}, None, 3)
    assert caplog.messages == []


class Minute(Timer):
    def time_remaining(self, stage: str = "train") -> float:
        return 60.0


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({}, "left 0:06, run 0:16"),
        ({"max_epochs": -1}, "left 0:06"),
        ({"max_epochs": -1, "max_steps": 7}, "left 0:03, run 0:03"),
        ({"max_epochs": -1, "max_steps": 100, "accumulate_grad_batches": 2, "global_step": 2}, "left 0:06, run 3:16"),
        ({"max_epochs": 9000, "callbacks": [Minute("00:01:00:00")]}, "left 0:06, run 1:00"),
        ({"num_training_batches": float("inf")}, ""),
    ],
)
def test_the_time_left_is_that_until_the_first_limit(settings, left, now):
    shown, trainer = EpochProgress(0.2, 30), stand_in(**settings)
    shown.began, shown.batches_before = 96.0, 0  # a second for each batch
    assert shown._left(trainer, trainer.num_training_batches - 4) == left


def test_durations_and_nouns():
    assert [clock(seconds) for seconds in (-1, 7.4, 60, 750, 93780)] == ["0:00", "0:07", "1:00", "12:30", "26:03:00"]
    shapes = (3, 8, 8), (5,), (20, 3)
    assert [noun_of(SimpleNamespace(input_shape=shape)) for shape in shapes] == ["images", "rows", "inputs"]
    assert noun_of(None) == "inputs"


@pytest.mark.parametrize("seconds", [0, -1])
def test_lines_at_all_times_are_refused(seconds):
    with pytest.raises(UserError, match=r"line_seconds=.*use more than 0, or null"):
        EpochProgress(0.2, seconds)


# the bar in a terminal


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is written on a terminal of 80 columns."""
    screen = Terminal()
    console = Console(file=screen, width=80, legacy_windows=False, _environ={"TERM": "xterm-256color"})
    monkeypatch.setattr(progress, "Console", lambda stderr: console)
    return screen


def test_the_bar_shows_loss_validation_and_time_left_in_80_columns(screen, train):
    handlers = logging.getLogger().handlers[:]
    ran = train(*SHORT, "callbacks.progress.refresh_seconds=-1", AT_ONCE)
    assert ran.code == 0, ran.err
    assert batch_lines(ran.out) == []
    drawn = re.split(r"[\r\n]+", re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", screen.getvalue()))
    assert max(map(len, drawn)) == 80
    [last] = [line for line in drawn if re.match(r"epoch   2/2 .* 3/3 ", line)][-1:]
    assert re.search(rf"loss \d\.\d{{4}} val acc +\d+\.\d\d% {LEFT.strip()}$", last)
    assert any(line.startswith("epoch   1/2 validation ") for line in drawn)
    assert logging.getLogger().handlers == handlers


def test_a_line_that_is_logged_takes_the_bar_away(screen, now):
    shown, trainer = EpochProgress(0.2, 30), stand_in(num_val_batches=[2], validating=True)
    shown.setup(trainer, None, "fit")
    shown.began, shown.batches_before = 90.0, 0
    for _ in range(2):
        now[0] += 1
        shown.on_validation_batch_end(trainer, None, None, None, 0)
        assert shown.bar is not None
        logging.getLogger("anybody").warning("a line")
        assert shown.bar is None
    assert shown.closer not in logging.getLogger().handlers
    assert screen.getvalue().endswith("\x1b[2K")  # the line of the bar is empty


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_a_terminal_that_cannot_draw_gets_lines(term, monkeypatch):
    console = Console(file=Terminal(), _environ={"TERM": term})
    monkeypatch.setattr(progress, "Console", lambda stderr: console)
    shown = EpochProgress(0.2, 30)
    shown.setup(stand_in(), None, "fit")
    assert shown.has_bar == (term != "dumb")


def test_the_best_epoch_is_green_where_lines_have_colours():
    record = logging.makeLogRecord({"msg": "epoch", "levelno": logging.INFO, **progress.BEST})
    assert Coloured().format(record) == "\x1b[32mepoch\x1b[0m"


def test_in_a_notebook_the_bar_stays_while_lines_are_logged(shown, now, monkeypatch):
    monkeypatch.setattr(progress, "Console", lambda **knobs: Console(**{"force_jupyter": True} | knobs))
    bar, trainer = EpochProgress(0.2, 30), stand_in()
    bar.setup(trainer, None, "fit")
    bar.began, bar.batches_before = 96.0, 0
    now[0] += 1
    bar.on_train_batch_end(trainer, None, {"loss": torch.tensor(0.5)}, None, 3)
    logging.getLogger("anybody").warning("a line")
    assert isinstance(bar.bar, NotebookProgress)
    assert re.search(r"epoch   1/2 .* 4/10 loss 0\.5000 ", re.sub("<[^>]*>", "", shown.pages[-1]))
    bar.on_exception(trainer, None, KeyboardInterrupt())
    assert (bar.bar, shown.pages[-1]) == (None, "")
