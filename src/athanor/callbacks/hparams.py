"""TensorBoard's HPARAMS table."""

import lightning.pytorch as L
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams


class HParams(L.Callback):
    """Writes a run's parameters and final metrics so that the table of a multirun shows the union of all.

    What Lightning's logger writes holds an `experiment` summary, of which TensorBoard reads the first run's alone:
    parameters and metrics that only other runs have would be missing from the table.
    """

    def __init__(self, parameters: dict[str, bool | int | float | str]) -> None:
        self.parameters = parameters

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        _, session_start, session_end = hparams(self.parameters, metrics)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                writer = logger.experiment._get_file_writer()
                writer.add_summary(session_start)
                writer.add_summary(session_end)
