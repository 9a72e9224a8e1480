"""Where contenders that Lightning trains look at the clock. train.py gets these as `+callbacks.benchmark`."""

import time

import lightning.pytorch as L

from contenders import task


class EpochTimes(L.Callback):
    """Seconds of each epoch's training steps, validation left out, and of the whole fit, into report.json."""

    def __init__(self) -> None:
        self.epoch_seconds: list[float] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.began = time.perf_counter()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        task.wait_for(pl_module.device)
        self.epoch_began = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx) -> None:
        if trainer.is_last_batch:
            task.wait_for(pl_module.device)
            self.epoch_seconds.append(time.perf_counter() - self.epoch_began)
            self.images = trainer.num_training_batches * len(batch[1])

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        task.wait_for(pl_module.device)
        task.write(
            {
                "epoch_seconds": self.epoch_seconds,
                "fit_s": time.perf_counter() - self.began,
                "images": self.images,
                "val_acc": trainer.callback_metrics["val/acc"].item(),
                **task.facts(pl_module.device),
            }
        )


class FirstStep(L.Callback):
    """Ends the process of contenders.startup after the first training step."""

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch, batch_idx) -> None:
        from contenders import startup

        startup.clock.enter("first training step")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx) -> None:
        from contenders import startup

        task.wait_for(pl_module.device)
        startup.finish()
