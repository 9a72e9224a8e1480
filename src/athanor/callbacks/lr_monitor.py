"""Logs the learning rate."""

import lightning.pytorch as L

from athanor.base.lightning_internals import logged_step


class LRMonitor(L.Callback):
    """Logs `lr`, the learning rate of the first parameter group, at the start of each epoch and at each logged step.

    Further optimizers of a module have lr_2, lr_3, and so on.

    Lightning's LearningRateMonitor names it after the optimizer (lr-Adam/pg1), so runs with different optimizers would
    not share a chart.
    """

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int):
        if batch_idx % trainer.accumulate_grad_batches:
            return  # within an optimizer step
        step = logged_step(trainer)
        if batch_idx == 0 or (step + 1) % trainer.log_every_n_steps == 0:
            # what Lightning puts in the place of no optimizer has no groups
            groups = [optimizer.param_groups[0] for optimizer in trainer.optimizers if optimizer.param_groups]
            rates = {f"lr_{n}" if n > 1 else "lr": group["lr"] for n, group in enumerate(groups, 1)}
            for logger in trainer.loggers if rates else ():
                logger.log_metrics(rates, step=step)
