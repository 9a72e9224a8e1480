"""Callbacks that measure the contenders that Lightning trains. train.py gets one of them as `+callbacks.benchmark`."""

import os
import time

import lightning.pytorch as L

from contenders import task


class EpochTimes(L.Callback):
    """Writes the seconds of each epoch's training steps, without validation, and of the whole fit into report.json."""

    def __init__(self) -> None:
        self.epoch_seconds: list[float] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.fit_started = time.perf_counter()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        task.wait_for(pl_module.device)
        self.epoch_started = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx) -> None:
        if trainer.is_last_batch:
            task.wait_for(pl_module.device)
            self.epoch_seconds.append(time.perf_counter() - self.epoch_started)
            self.images = trainer.num_training_batches * len(batch[1])

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        device = trainer.strategy.root_device  # pl_module is on the CPU again
        task.wait_for(device)
        fit_s = time.perf_counter() - self.fit_started
        val_acc = trainer.callback_metrics["val/acc"].item()
        task.write_report(task.training_report(self.epoch_seconds, fit_s, self.images, val_acc, device))


class EndAfterOneStep(L.Callback):
    """Ends the process after the first training step, whatever the run would do next."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx) -> None:
        task.wait_for(pl_module.device)
        os._exit(0)
