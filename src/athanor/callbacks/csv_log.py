"""metrics.csv: one row a value."""

from pathlib import Path

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only


class CSVLog(Logger):
    """Appends `step,epoch,metric,value` rows, so a resumed run goes on in its own file and a new metric is no problem.

    pandas: pd.read_csv("metrics.csv").pivot_table(index="step", columns="metric", values="value")
    Lightning's CSVLogger deletes the file of the run that it resumes.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self.rows: list[str] = []

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        epoch = metrics.get("epoch")
        epoch = "" if epoch is None else int(epoch)
        self.rows += [f"{step},{epoch},{name},{float(v):.9g}\n" for name, v in metrics.items() if name != "epoch"]

    @rank_zero_only
    def log_hyperparams(self, params: object, *args: object, **kwargs: object) -> None:
        """They are in config.yaml."""

    @rank_zero_only
    def save(self) -> None:
        if not self.rows:
            return
        header = "" if self.path.exists() else "step,epoch,metric,value\n"
        with open(self.path, "a") as file:
            file.write(header + "".join(self.rows))
        self.rows.clear()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()
