"""How far a run is: a bar that costs next to nothing, or lines where there is no terminal, and a line each epoch."""

import io
import logging
import math
import time
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import ProgressBar, Timer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from torch import Tensor

from athanor.base.errors import UserError
from athanor.callbacks.checkpoints import checkpoints_of
from athanor.callbacks.stopwatch import Stopwatch
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
        if line_seconds is not None and line_seconds <= 0:
            raise UserError(f"callbacks.progress.line_seconds={line_seconds}: use more than 0, or null")
        self.refresh_seconds, self.line_seconds = refresh_seconds, line_seconds or math.inf
        self.enabled = True
        self.bar: Progress | None = None  # while it is shown
        self.line: str | None = None  # of the epoch that has ended, until its metrics are complete
        self.stages = ["train"]  # that have metrics of this epoch
        self.live = {"loss": "", "val": ""}  # what the bar shows
        self.closer = logging.Handler()  # a line that is logged would be written behind the bar
        self.closer.emit = lambda record: self._close_bar()

    def disable(self) -> None:
        self.enabled = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self.console = Console(stderr=True)
        self.has_bar = self.console.is_jupyter or (self.console.is_interactive and self.console.file.isatty())
        self._wait()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started = self.began = time.monotonic()  # a run that is resumed within an epoch has no start of that epoch
        self.batches_before = trainer.fit_loop.total_batch_idx + 1

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._log_line(trainer)
        self.started = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx) -> None:
        if time.monotonic() > self.next_look:
            loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
            is_number = isinstance(loss, Tensor) and loss.numel() == 1  # a module of one's own may give anything
            self.live["loss"] = f"loss {loss.item():.4f}" if is_number else ""
            self._show(trainer, epoch_of(trainer), batch_idx + 1, trainer.num_training_batches)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        if time.monotonic() > self.next_look:
            name = f"{epoch_of(trainer)} validation" if trainer.validating or trainer.training else "test"
            totals = trainer.num_test_batches if trainer.testing else trainer.num_val_batches
            self._show(trainer, name, batch_idx + 1, totals[dataloader_idx])

    on_test_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.stages = ["train", "val"]
        self.live["val"] = self._written(trainer, "val", most=1)

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
        """Set the time on the clock from which a batch shows something."""
        seconds = self.refresh_seconds if self.has_bar else self.line_seconds
        self.next_look = time.monotonic() + seconds if self.enabled else math.inf

    def _show(self, trainer: L.Trainer, name: str, done: int, total: float) -> None:
        """Draw the bar, or log a line. total: of the batches, inf where nobody knows it."""
        left = "" if not trainer.training else self._left(trainer, trainer.num_training_batches - done)
        if self.has_bar:
            self._draw(name, completed=done, total=None if math.isinf(total) else total, left=left, **self.live)
        else:
            count = f"batch {done:,}" if math.isinf(total) else f"batch {done:,}/{total:,}"
            watch = next((callback for callback in trainer.callbacks if isinstance(callback, Stopwatch)), None)
            speed = watch and watch.images_per_second
            rate = f"{speed:,.0f} {noun_of(trainer.datamodule)}/s" if speed else ""
            log.info("%s", "   ".join(filter(None, [name, count, self.live["loss"], rate, left])))
        self._wait()

    def _draw(self, name: str, **state: Any) -> None:
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

    def _left(self, trainer: L.Trainer, batches: float) -> str:
        """`left 0:40, run 12:30`: of the `batches` of this epoch, and until the first limit of the run, at the speed of
        this process so far, validations included. Early stopping may end it before.
        """
        made = trainer.fit_loop.total_batch_idx + 1
        pace = (time.monotonic() - self.began) / max(made - self.batches_before, 1)
        ends = [timer.time_remaining() for timer in trainer.callbacks if isinstance(timer, Timer)]
        if trainer.max_epochs not in (None, -1):
            ends.append(pace * (trainer.max_epochs * trainer.num_training_batches - made))
        if trainer.max_steps != -1:
            ends.append(pace * (trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches)
        run = min((end for end in ends if end is not None), default=math.inf)
        times = {"left ": min(pace * batches, run), "run ": run}
        return ", ".join(f"{name}{clock(seconds)}" for name, seconds in times.items() if math.isfinite(seconds))

    def _close_bar(self) -> None:
        if self.bar:
            logging.getLogger().removeHandler(self.closer)
            self.bar.stop()
            self.bar = None

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
        """The first `most` measures of a stage; of a module that is no Task, of all that it has logged of it."""
        module, metrics = trainer.lightning_module, trainer.callback_metrics
        if isinstance(module, Task):
            measures = dict(list(type(module).measures.items())[:most])
            return f"{stage} {written({name: metrics[f'{stage}/{name}'] for name in measures}, measures)}"
        values = {name: value for name, value in metrics.items() if stage_and_name(name)[0] == stage}
        return written(values, dict.fromkeys(whole_epochs(values)[:most], LOSS))


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


def clock(seconds: float) -> str:
    """A duration in hours, minutes and seconds: `0:07`, `12:30`, `26:03:00`."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
