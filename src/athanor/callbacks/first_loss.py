"""Says where the first loss of a training is far from that of a network that knows nothing."""

import logging

import lightning.pytorch as L
import torch

from athanor.craft.checks.first_loss import judge_first_loss
from athanor.data.seeds import global_randomness_kept
from athanor.tasks.task import Task

log = logging.getLogger(__name__)


class FirstLoss(L.Callback):
    """Judges the loss of the first training batch, which training has computed anyway, once; assemble.py adds it.

    Nothing is said of weights that were trained before, of a run that is resumed, and of a module that is no Task.
    """

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx) -> None:
        self.on_train_batch_end = None  # which Lightning then does not call
        is_known = isinstance(pl_module, Task) and "parent" not in pl_module.record
        if not is_known or getattr(pl_module.network, "pretrained", False) or trainer.current_epoch or batch_idx:
            return
        loss = outputs["loss"].item() * trainer.accumulate_grad_batches
        try:
            with torch.no_grad(), global_randomness_kept(pl_module.device):
                size = len(batch[0]), len(pl_module.record["class_names"])
                finding = judge_first_loss(
                    pl_module, torch.zeros(size, device=pl_module.device), pl_module.targets_of(*batch), loss
                )
        except Exception:  # of a task whose outputs have another shape; what they should be is then not known
            return
        if finding.advice:
            log.warning(
                "warning: the first training loss is %s; %s. python scripts/check.py looks further",
                finding.figure,
                finding.advice,
            )
