"""How far a run is: a bar that costs next to nothing, or lines where there is no terminal, and a line each epoch."""

import io
import logging
import math
import sys
import time
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from athanor.base.errors import require
from athanor.callbacks.checkpoints import checkpoints_of
from athanor.callbacks.stopwatch import Stopwatch
from athanor.callbacks.time_left import TimeLeft
from athanor.tasks.measure import LOSS, stage_and_name, whole_epochs, written
from athanor.tasks.task import Task

log = logging.getLogger(__name__)

BEST = {"colour": 32}  # green in terminals that have colours, see engine/app/logs.py


class EpochProgress(ProgressBar):
    """Shows how far the run is, and logs a line of metrics for each epoch, the best so far marked.

    In a terminal or a notebook a Rich bar shows the epoch, the loss of the last step, the last validation, and the time
    left of the epoch and of the run. Elsewhere, as in the file of a SLURM job, a line says the same.

    refresh_seconds: least time between two drawings of the bar. line_seconds: time, above 0, after which a line is
    logged where nothing else was; None: only those of epochs. In the steps between, a look at the clock is all that is
    done: the loss is read, which waits for a GPU, only when it is shown. Of several processes the main one speaks.
    """

    def __init__(self, refresh_seconds: float, line_seconds: float | None) -> None:
        super().__init__()
        require(
            line_seconds is None or line_seconds > 0,
            f"callbacks.progress.line_seconds={line_seconds}: use more than 0, or null for no line within an epoch",
        )
        self.refresh_seconds, self.line_seconds = refresh_seconds, line_seconds or math.inf
        self.enabled = True
        self.bar: Progress | None = None  # while it is shown
        self.next_look = math.inf  # the time on the clock from which a step shows something
        self.line: str | None = None  # of the epoch that has ended, until its metrics are complete
        self.stages = ["train"]  # that have metrics of this epoch
        self.live = {"loss": "", "val": ""}  # what the bar shows
        self.left = TimeLeft()
        self.closer = BarCloser(self._close_bar)

    def disable(self) -> None:
        self.enabled = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self.console = Console(stderr=True)
        is_terminal = self.console.is_interactive and sys.stderr.isatty()
        self.has_bar = self.console.is_jupyter or is_terminal
        self.watch = next((callback for callback in trainer.callbacks if isinstance(callback, Stopwatch)), None)
        self.counted = 0, 0.0  # images, and seconds of training, when the last line was logged
        self._wait()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started = time.monotonic()  # a run that is resumed within an epoch has no start of that epoch
        self.left.start(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._log_line(trainer)
        self.started = time.monotonic()
        self.left.start_epoch(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx) -> None:
        if time.monotonic() > self.next_look:
            loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
            self.live["loss"] = "" if loss is None else f"loss {float(loss):.4f}"
            self._show(trainer, epoch_of(trainer), "step", batch_idx + 1, trainer.num_training_batches)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        if time.monotonic() > self.next_look:
            total = trainer.num_val_batches[dataloader_idx]
            self._show(trainer, epoch_of(trainer), "validation", batch_idx + 1, total)

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        if time.monotonic() > self.next_look:
            self._show(trainer, "test", "batch", batch_idx + 1, trainer.num_test_batches[dataloader_idx])

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.stages = ["train", "val"]
        self.live["val"] = self._headline(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close_bar()
        self.line = f"{epoch_of(trainer)}  {time.monotonic() - self.started:5.1f} s"

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close_bar()
        self._log_line(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._close_bar()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._close_bar()

    # what is shown within an epoch

    def _wait(self) -> None:
        seconds = self.refresh_seconds if self.has_bar else self.line_seconds
        self.next_look = time.monotonic() + seconds if self.enabled else math.inf

    def _show(self, trainer: L.Trainer, name: str, unit: str, done: int, total: float) -> None:
        """Draw the bar, or log a line: `unit` number `done` of `total`, which is inf where nobody knows it."""
        left = "" if trainer.testing else self.left.told(trainer, done if unit == "step" else None)
        if self.has_bar:
            self._draw(name if unit == "step" else f"{name} {unit}", done, total, left)
        else:
            of = "" if math.isinf(total) else f"/{total:,.0f}"
            parts = name, f"{unit} {done:,}{of}", self.live["loss"], self._speed(trainer), left
            log.info("%s", "   ".join(filter(None, parts)))
        self._wait()

    def _draw(self, name: str, done: int, total: float, left: str) -> None:
        state = dict(completed=done, total=None if math.isinf(total) else total, left=left, **self.live)
        if self.bar is None:
            fields = [TextColumn(f"{{task.fields[{field}]}}") for field in ("loss", "val", "left")]
            columns = TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), *fields
            kind = NotebookProgress if self.console.is_jupyter else Progress
            self.bar = kind(*columns, console=self.console, auto_refresh=False, transient=True, expand=True)
            self.shown = self.bar.add_task(name, **state)
            self.bar.start()
            if not self.console.is_jupyter:  # which shows lines elsewhere
                logging.getLogger().handlers.insert(0, self.closer)
        self.bar.update(self.shown, description=name, refresh=True, **state)

    def _close_bar(self) -> None:
        if self.bar:
            logging.getLogger().removeHandler(self.closer)
            self.bar.stop()
            self.bar = None

    def _speed(self, trainer: L.Trainer) -> str:
        """Inputs a second in the training steps since the last line."""
        if self.watch is None or self.watch.train_seconds <= self.counted[1]:
            return ""
        images, seconds = self.watch.images - self.counted[0], self.watch.train_seconds - self.counted[1]
        self.counted = self.watch.images, self.watch.train_seconds
        return f"{images / seconds:,.0f} {noun_of(trainer.datamodule)}/s"

    def _headline(self, trainer: L.Trainer) -> str:
        """What the bar shows of the validation: the first that the task measures, or that its module has logged."""
        text = self._written(trainer, "val", most=1)
        return text if text.startswith("val") or not text else f"val {text}"

    # the line of an epoch

    def _log_line(self, trainer: L.Trainer) -> None:
        """Log the line of the epoch that has ended. Its metrics are complete only after all hooks of its end."""
        if self.enabled and self.line:
            stages = (self._written(trainer, stage) for stage in self.stages)
            checkpoints = checkpoints_of(trainer)
            is_best = checkpoints and checkpoints.best and checkpoints.best is checkpoints.last
            line = "   ".join([self.line, *filter(None, stages), *(["best"] if is_best else [])])
            log.info("%s", line, extra=BEST if is_best else None)
            self._wait()
        self.line, self.stages = None, ["train"]

    def _written(self, trainer: L.Trainer, stage: str, most: int | None = None) -> str:
        """The measures of a stage, or the first of them; of a module that is no Task, all that it has logged of it."""
        module, metrics = trainer.lightning_module, trainer.callback_metrics
        if isinstance(module, Task):
            measures = dict(list(type(module).measures.items())[:most])
            return f"{stage} {written({name: metrics[f'{stage}/{name}'] for name in measures}, measures)}"
        values = {name: value for name, value in metrics.items() if stage_and_name(name)[0] == stage}
        return written(values, dict.fromkeys(whole_epochs(values)[:most], LOSS))


class BarCloser(logging.Handler):
    """Takes the bar away before a line is logged, which would else be written behind it; the next drawing is below."""

    def __init__(self, close: Any) -> None:
        super().__init__()
        self.close_bar = close

    def emit(self, record: logging.LogRecord) -> None:
        self.close_bar()


class NotebookProgress(Progress):
    """The same bar in a notebook, drawn over itself in the output of its cell. Rich's own needs ipywidgets for that."""

    shown = None  # the place in the output; None before `start`

    def start(self) -> None:
        from IPython.display import HTML, display

        self.shown = display(HTML(""), display_id=True)

    def refresh(self) -> None:
        if self.shown is None:
            return
        from IPython.display import HTML

        page = Console(record=True, file=io.StringIO(), width=80, force_jupyter=False)
        page.print(self.get_renderable())
        self.shown.update(HTML(page.export_html(inline_styles=True, code_format="<pre>{code}</pre>")))

    def stop(self) -> None:
        from IPython.display import HTML

        self.shown.update(HTML(""))


def epoch_of(trainer: L.Trainer) -> str:
    last = "" if trainer.max_epochs in (None, -1) else f"/{trainer.max_epochs}"
    return f"epoch {trainer.current_epoch + 1:3d}{last}"


def noun_of(data: Any) -> str:
    """What one input of a data module is called: pictures have three dimensions, and rows of a table one."""
    return {3: "images", 1: "rows"}.get(len(getattr(data, "input_shape", ())), "inputs")
