"""Early stopping that does not cut a schedule which has an end, nor ends a run before SWA has begun to average."""

from typing import Literal

import lightning.pytorch as L
from lightning.pytorch import callbacks

from athanor.callbacks.swa import SWA
from athanor.tasks.task import Task


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's EarlyStopping, which begins to judge the monitored metric when the schedule has come to its end.

    A cosine over 100 epochs that is stopped after 20 has trained with nine tenths of its learning rate all the time.
    So a schedule of learning rate or momentum that has an end (Schedule.end) is waited for, and so is the start of
    callbacks=swa, whose averages are another network than the weights before them. A schedule that ends with the run is
    never cut; with one that has no end, as constant, exponential or plateau, the metric is judged from the beginning.

    cut_schedules: True judges it from the beginning, or from the start of SWA, whatever the schedule is.
    The other arguments are those of Lightning's class.
    """

    def __init__(
        self,
        *,
        monitor: str,
        mode: Literal["min", "max"],
        patience: int,
        min_delta: float,
        strict: bool,
        cut_schedules: bool,
        verbose: bool = False,
        check_finite: bool = True,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
        check_on_train_epoch_end: bool | None = None,
    ) -> None:
        judged = {"stopping_threshold": stopping_threshold, "divergence_threshold": divergence_threshold}
        judged |= {"check_finite": check_finite, "check_on_train_epoch_end": check_on_train_epoch_end}
        super().__init__(monitor, min_delta, patience, verbose, mode, strict, **judged)
        self.cut_schedules = cut_schedules
        self.waits_for = 0.0  # optimizer steps of the run before the first judgement

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not isinstance(pl_module, Task):  # its schedules are not known, nor, before it logs, its metrics
            self.strict = False
            return
        run = pl_module.run_length
        starts = [callback.start * run.steps for callback in trainer.callbacks if isinstance(callback, SWA)]
        self.waits_for = max(0 if self.cut_schedules else pl_module.schedule.end(run), *starts, 0)

    # not at the last step of a schedule that ends with the run: there the limit of the run ends it

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step > self.waits_for:
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step > self.waits_for:
            super().on_validation_end(trainer, pl_module)
