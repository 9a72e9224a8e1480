"""The learning rate in the logs."""

import lightning.pytorch as L


class LRMonitor(L.Callback):
    """Logs `lr`, the first group's, at each epoch and at each logged step.

    Lightning's own names it after the optimizer (lr-Adam/pg1), so that no two runs can be laid over one another.
    """

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int):
        if batch_idx % trainer.accumulate_grad_batches:
            return  # of the same step
        if batch_idx == 0 or (trainer.global_step + 1) % trainer.log_every_n_steps == 0:
            for logger in trainer.loggers:
                logger.log_metrics({"lr": trainer.optimizers[0].param_groups[0]["lr"]}, step=trainer.global_step)
