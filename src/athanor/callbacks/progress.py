"""A progress bar that costs next to nothing, and one line of metrics for each epoch."""

import io
import logging
import time

import lightning.pytorch as L
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from athanor.tasks.measure import LOSS, stage_and_name, whole_epochs, written
from athanor.tasks.task import Task

log = logging.getLogger(__name__)


class EpochProgress(ProgressBar):
    """Shows the running epoch as a Rich bar in a terminal or a notebook, and logs each epoch's metrics.

    The bar is drawn at most once in `refresh_seconds`; the steps in between only look at the clock.
    """

    def __init__(self, refresh_seconds: float) -> None:
        super().__init__()
        self.refresh_seconds = refresh_seconds
        self.enabled = True
        self.bar: Progress | None = None
        self.next_refresh = 0.0
        self.line: str | None = None  # of the epoch that has ended, until its metrics are complete
        self.stages = ["train"]  # that have metrics of this epoch

    def disable(self) -> None:
        self.enabled = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started = time.monotonic()  # a run that is resumed within an epoch has no start of that epoch

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._log_line(trainer)
        self.started = time.monotonic()
        console = Console(stderr=True)
        if self.enabled and (console.is_jupyter or console.is_terminal):
            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            kind = NotebookProgress if console.is_jupyter else Progress
            self.bar = kind(*columns, console=console, auto_refresh=False, transient=True)
            self.task = self.bar.add_task(epoch_of(trainer), total=trainer.num_training_batches)
            self.bar.start()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx) -> None:
        if self.bar and time.monotonic() > self.next_refresh:
            self.bar.update(self.task, completed=batch_idx + 1, refresh=True)
            self.next_refresh = time.monotonic() + self.refresh_seconds

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.stages = ["train", "val"]

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close_bar()
        self.line = f"{epoch_of(trainer)}  {time.monotonic() - self.started:5.1f} s"

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close_bar()
        self._log_line(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._close_bar()

    def _close_bar(self) -> None:
        if self.bar:
            self.bar.stop()
            self.bar = None

    def _log_line(self, trainer: L.Trainer) -> None:
        """Log the line of the epoch that has ended. Its metrics are complete only after all hooks of its end."""
        if self.enabled and self.line:
            stages = (self._written(trainer, stage) for stage in self.stages)
            log.info("   ".join([self.line, *filter(None, stages)]))
        self.line, self.stages = None, ["train"]

    def _written(self, trainer: L.Trainer, stage: str) -> str:
        """The measures of a stage; of a module that is no Task, all that it has logged of it."""
        module, metrics = trainer.lightning_module, trainer.callback_metrics
        if isinstance(module, Task):
            measures = type(module).measures
            return f"{stage} {written({name: metrics[f'{stage}/{name}'] for name in measures}, measures)}"
        values = {name: value for name, value in metrics.items() if stage_and_name(name)[0] == stage}
        return written(values, dict.fromkeys(whole_epochs(values), LOSS))


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
