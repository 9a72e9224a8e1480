"""The checkpoints that a run has kept, as one ensemble at its end."""

import logging
from statistics import fmean
from typing import Any

import lightning.pytorch as L

from athanor.callbacks.checkpoints import checkpoints_of
from athanor.craft.ensembles import predictions
from athanor.craft.ensembles.combine import How, combined, disagreement, scores
from athanor.engine.config import trust
from athanor.engine.runs.ensembles import members

log = logging.getLogger(__name__)


class CheckpointEnsemble(L.Callback):
    """Averages what the kept checkpoints say of the validation images, and of the test images where they are read.

    Which are kept, callbacks.checkpoints says: the best, the last, or the ends of cycles of the learning rate (snapshot
    ensembles, Huang et al. 2017). Each is asked once; the answers stay in the run's `predictions/`, for
    scripts/ensemble.py as well. The main process does it, on the run's device.
    """

    def __init__(self, combine: How) -> None:
        self.combine = combine
        self.members: list[members.Member] = []
        self.results: dict[str, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.checkpoints = checkpoints_of(trainer)
        if stage == "fit" and not (self.checkpoints and self.checkpoints.top_k > 1):
            raise ValueError(
                "callbacks=ensemble averages kept checkpoints; use callbacks.checkpoints.top_k of 2 or more"
            )

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.fast_dev_run:
            return
        if trainer.is_global_zero:
            self.checkpoints.io.wait()
            kept = sorted(str(self.checkpoints.file(entry)) for entry in self.checkpoints.kept)
            if len(kept) < 2:
                log.warning("no ensemble: %d checkpoint was kept; train for more epochs", len(kept))
            else:
                trust.extend(trust.modules_of(pl_module.record["config"]))  # what has just been trained may be loaded
                self.members = members.find(kept)
                self.results = {"ensemble": {"combine": self.combine, "members": [m.path.name for m in self.members]}}
                if len(trainer.datamodule.val_index):
                    self._judge(trainer, pl_module, "val")
        trainer.strategy.barrier("ensemble")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.members:
            self._judge(trainer, pl_module, "test")
        trainer.strategy.barrier("ensemble")

    def _judge(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: predictions.Stage) -> None:
        data = trainer.datamodule
        logits = predictions.stacked(self.members, data, stage, device=str(pl_module.device))
        labels = predictions.labels(data, stage)
        alone = [scores(member.log_softmax(-1), labels) for member in logits]
        found = {
            "members": alone,
            "mean": {name: fmean(member[name] for member in alone) for name in alone[0]},
            "ensemble": scores(combined(logits, self.combine), labels),
            "disagreement": disagreement(logits),
        }
        self.results["ensemble"][stage] = found
        named = {f"{stage}/{name}_ensemble": value for name, value in found["ensemble"].items()}
        for logger in trainer.loggers:
            logger.log_metrics(named, step=trainer.global_step)
