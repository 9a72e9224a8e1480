"""Loggers for TensorBoard and for a CSV file, which keep what a run logged before it was resumed."""

from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from athanor.base.files import append, write_atomically
from athanor.base.text import csv_text

HEADER = "step,epoch,metric,value\n"


class TensorBoard(TensorBoardLogger):
    """Writes event files directly into the run's directory, and in chosen/ the row of TensorBoard's HPARAMS table.

    The table shows the last value of each metric in the folder that has the row. In the run's own folder that would be
    the last epoch's, beside the test of the checkpoint that was chosen.
    Lightning's logger writes an `experiment` summary for that table, and TensorBoard reads only the summary of the
    first run: parameters and metrics that only other runs have would be missing. Without summaries, the table has all.

    save_dir: the run's directory. parameters: its row's settings, by name. purge_step: the step at which the run is
    resumed; what was logged there and later is hidden, as it will be logged again.
    """

    def __init__(self, save_dir: str, parameters: dict, purge_step: int | None = None) -> None:
        super().__init__(save_dir, name="", version="", default_hp_metric=False, purge_step=purge_step)
        self.parameters = parameters

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        metrics = {name: value for name, value in metrics.items() if name != "epoch"}  # Lightning adds it to each call
        super().log_metrics(metrics, step)

    @rank_zero_only
    def log_hyperparams(self, params: object, *args: object, **kwargs: object) -> None:
        """Does nothing: `log_chosen` writes the parameters together with the metrics."""

    @rank_zero_only
    def save(self) -> None:
        """Flush. Lightning's logger would also write an empty hparams.yaml; the parameters are in config.yaml."""
        self.experiment.flush()

    @rank_zero_only
    def log_chosen(self, metrics: dict[str, float], step: int) -> None:
        """Write the run's row: validation and test metrics of the checkpoint that was chosen, which is of `step`."""
        _, session_start, session_end = hparams(self.parameters, {})
        with SummaryWriter(f"{self.log_dir}/chosen") as writer:
            writer.file_writer.add_summary(session_start)
            writer.file_writer.add_summary(session_end)
            for name in (name for name in metrics if name.startswith(("val/", "test/"))):
                writer.add_scalar(name, metrics[name], step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Flush, without closing the file: the test comes after the end of the fit."""
        self.experiment.flush()


class CSVLog(Logger):
    """Appends rows `step,epoch,metric,value` to metrics.csv in `save_dir`.

    One row for each value, so that a metric may appear for the first time at any step, and a resumed run can append
    (Lightning's CSVLogger deletes the file). As a table of metrics by step:
    pd.read_csv("metrics.csv").pivot_table(index="step", columns="metric", values="value")

    purge_step: the step at which the run is resumed; rows of that step and later are removed, as they will be logged
    again.
    """

    def __init__(self, save_dir: str, purge_step: int | None = None) -> None:
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self.rows: list[tuple] = []
        if purge_step is not None and self.path.exists():
            self._purge(purge_step)

    @rank_zero_only
    def _purge(self, step: int) -> None:
        header, *rows = self.path.read_text().splitlines(keepends=True) or [HEADER]
        complete = [row for row in rows if row.endswith("\n")]  # a killed run may have written half of its last row
        steps = [row.partition(",")[0] for row in complete]  # no number where an old version broke a name over lines
        kept = [row for row, text in zip(complete, steps, strict=True) if text.isdecimal() and int(text) < step]
        write_atomically(self.path, header + "".join(kept))

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        epoch = int(metrics["epoch"]) if "epoch" in metrics else ""
        self.rows += [(step, epoch, name, f"{float(v):.9g}") for name, v in metrics.items() if name != "epoch"]

    @rank_zero_only
    def log_hyperparams(self, params: object, *args: object, **kwargs: object) -> None:
        """Does nothing: they are in config.yaml."""

    @rank_zero_only
    def save(self) -> None:
        if self.rows:
            header = "" if self.path.exists() else HEADER
            self.path.parent.mkdir(parents=True, exist_ok=True)
            append(self.path, header + csv_text(self.rows))
            self.rows.clear()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()
