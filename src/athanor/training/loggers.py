"""TensorBoard and CSV logs that a run's directory can keep: nothing is deleted, and a multirun's table is whole."""

from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.utils.tensorboard.summary import hparams

from athanor.base.files import write_atomically

HEADER = "step,epoch,metric,value\n"


class TensorBoard(TensorBoardLogger):
    """Events straight in the run's directory, with this run's line of the HPARAMS table.

    What Lightning's logger writes for that table holds an `experiment` summary, of which TensorBoard reads the first
    run's alone: parameters and metrics that only other runs have would be missing. Without it the table is the union.
    A resumed run hides what was logged at `purge_step` and after it, which it will log again.
    """

    def __init__(self, save_dir: str, parameters: dict, purge_step: int | None = None) -> None:
        super().__init__(save_dir, name="", version="", default_hp_metric=False, purge_step=purge_step)
        self.parameters = parameters
        self.latest: dict[str, float] = {}

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        metrics = {name: value for name, value in metrics.items() if name != "epoch"}  # a chart that says nothing
        super().log_metrics(metrics, step)
        self.latest |= {name: float(v) for name, v in metrics.items() if name.startswith(("val/", "test/"))}

    @rank_zero_only
    def log_hyperparams(self, params: object, *args: object, **kwargs: object) -> None:
        """They are written at the end, with the metrics that they led to."""

    @rank_zero_only
    def save(self) -> None:
        """Lightning's would write an empty hparams.yaml as well; the parameters are in config.yaml."""
        self.experiment.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self.latest:
            _, session_start, session_end = hparams(self.parameters, self.latest)
            writer = self.experiment._get_file_writer()
            writer.add_summary(session_start)
            writer.add_summary(session_end)
        self.experiment.flush()


class CSVLog(Logger):
    """metrics.csv: appends `step,epoch,metric,value`, so a resumed run goes on in its file and metrics may come late.

    pandas: pd.read_csv("metrics.csv").pivot_table(index="step", columns="metric", values="value")
    Lightning's CSVLogger deletes the file of the run that it resumes. Here a resumed run takes out the rows of
    `purge_step` and after it, which it will log again.
    """

    def __init__(self, save_dir: str, purge_step: int | None = None) -> None:
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self.rows: list[str] = []
        if purge_step is not None and self.path.exists():
            self._purge(purge_step)

    @rank_zero_only
    def _purge(self, step: int) -> None:
        header, *rows = self.path.read_text().splitlines(keepends=True) or [HEADER]
        kept = [
            row for row in rows if row.endswith("\n") and int(row.partition(",")[0]) < step
        ]  # a last row may be torn
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
        self.rows += [f"{step},{epoch},{name},{float(v):.9g}\n" for name, v in metrics.items() if name != "epoch"]

    @rank_zero_only
    def log_hyperparams(self, params: object, *args: object, **kwargs: object) -> None:
        """They are in config.yaml."""

    @rank_zero_only
    def save(self) -> None:
        if self.rows:
            header = "" if self.path.exists() else HEADER
            with open(self.path, "a") as file:
                file.write(header + "".join(self.rows))
            self.rows.clear()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()
