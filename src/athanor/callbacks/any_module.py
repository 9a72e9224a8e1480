"""What a LightningModule that is no Task lacks: steps that are repeated to the bit, and checkpoints that hold all."""

import io
import logging
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from athanor.base.errors import UserError
from athanor.base.lightning_internals import (
    add_epoch_values,
    epoch_values,
    metric_states,
    postpone_plateau_schedulers,
    set_metric_states,
    step_plateau_schedulers,
)
from athanor.data.seeds import seed_all
from athanor.tasks.measure import whole_epochs
from athanor.training.agreement import gathered

log = logging.getLogger(__name__)

VALIDATION, TEST = 0x76616C, 0x74657374  # "val" and "test" in ASCII: their draws are independent of those of training


class AnyModule(Checkpoint):
    """Lets a run with any LightningModule be resumed to the bit; assemble.py adds it where the task is no Task.

    Each batch seeds the generators of torch, numpy and Python by (seed, process, epoch, batch). What the module has
    logged of the epoch that is under way, metrics of torchmetrics included, is saved within the epoch. Schedulers that
    follow a metric move before a checkpoint of the epoch is written, where Lightning moves them after it.

    It is one of Lightning's Checkpoint callbacks, whose hooks are called after the hooks of the module.

    monitor: the metric by which checkpoints are judged.
    Raises UserError before the first step for a hyper-parameter that a checkpoint cannot hold.
    """

    def __init__(self, monitor: str) -> None:
        self.monitor = monitor
        # of the epoch in which a run is resumed
        self.values: dict[str, list] = {}  # what was logged, until the module logs it again
        self.metrics: dict[str, list] = {}  # states of metrics, until the first step
        self.is_within_epoch = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        refuse_hyper_parameters(pl_module)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.frequencies = postpone_plateau_schedulers(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        set_metric_states(pl_module, self.metrics)
        self.metrics = {}

    # randomness

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int):
        self.is_within_epoch = True
        seed_batch(pl_module, trainer.current_epoch, batch_idx)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        seed_batch(pl_module, VALIDATION, batch_idx, dataloader_idx)

    def on_test_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        seed_batch(pl_module, TEST, batch_idx, dataloader_idx)

    # what was logged of an epoch

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx) -> None:
        if self.values:
            self.values = add_epoch_values(trainer, self.values)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.is_within_epoch = False
        self.values = {}
        step_plateau_schedulers(trainer, self.frequencies)
        logged = whole_epochs(trainer.callback_metrics)
        if trainer.current_epoch == 0 and self.monitor not in logged and not trainer.fast_dev_run:
            log.warning(
                "%s does not log monitor.metric=%s, so the last checkpoint counts and nothing stops early; it logs %s",
                type(pl_module).__name__,
                self.monitor,
                ", ".join(logged) or "no metric",
            )

    # checkpoints

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict) -> None:
        checkpoint["athanor"] = pl_module.record
        own = [epoch_values(trainer), metric_states(pl_module)] if self.is_within_epoch else [{}, {}]
        checkpoint["within_epoch"] = gathered(own, trainer.world_size)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict) -> None:
        saved = checkpoint["within_epoch"]
        if len(saved) != trainer.world_size and any(map(any, saved)):
            raise UserError(
                f"{len(saved)} processes have written this checkpoint within an epoch; use trainer.devices={len(saved)}"
            )
        if len(saved) == trainer.world_size:
            self.values, self.metrics = saved[trainer.global_rank]


def seed_batch(pl_module: L.LightningModule, *numbers: int) -> None:
    seed_all(pl_module.device, pl_module.record["config"]["seed"], pl_module.global_rank, *numbers)


def refuse_hyper_parameters(pl_module: L.LightningModule) -> None:
    """Raise UserError for the first of save_hyperparameters() that a checkpoint of plain data cannot hold."""
    for name, value in pl_module.hparams.items():
        if not is_plain(value):
            raise UserError(
                f"{type(pl_module).__name__}.save_hyperparameters() keeps {name}, a {type(value).__name__}, and a "
                f"checkpoint holds tensors and plain data only\n  write self.save_hyperparameters(ignore=[{name!r}])"
            )


def is_plain(value: Any) -> bool:
    """Whether torch.load reads it back from a file that may run nothing."""
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
    except Exception:
        return False
    return True
