"""Logs the learning rate."""

import lightning.pytorch as L


class LRMonitor(L.Callback):
    """Logs `lr`, the learning rate of the first parameter group, at the start of each epoch and at each logged step.

    Lightning's LearningRateMonitor names it after the optimizer (lr-Adam/pg1), so runs with different optimizers would
    not share a chart.
    """

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int):
        if batch_idx % trainer.accumulate_grad_batches:
            return  # within an optimizer step
        if batch_idx == 0 or (trainer.global_step + 1) % trainer.log_every_n_steps == 0:
            for logger in trainer.loggers:
                logger.log_metrics({"lr": trainer.optimizers[0].param_groups[0]["lr"]}, step=trainer.global_step)
