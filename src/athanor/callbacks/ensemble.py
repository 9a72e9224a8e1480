"""The checkpoints that a run has kept, as one ensemble at its end."""

import copy
import logging
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import lightning.pytorch as L

from athanor.base.errors import UserError
from athanor.callbacks.checkpoints import checkpoints_of
from athanor.craft.ensembles.combine import How, combined, disagreement, scores
from athanor.craft.ensembles.predictions import SavedClassifier, Stage, stacked_logits, stage_labels
from athanor.tasks.classification import Classification
from athanor.training.checkpoint_files import read_checkpoint_file, require_epoch

log = logging.getLogger(__name__)


class CheckpointEnsemble(L.Callback):
    """Combines the predictions of the kept checkpoints for the validation images, and for the test images if they are
    read.

    Which checkpoints are kept, callbacks.checkpoints says: the best, the last, or the ends of cycles of the learning
    rate (snapshot ensembles, Huang et al. 2017). Each predicts once; its logits stay in the run's `predictions/`, where
    scripts/ensemble.py finds them. The main process does this, on the run's device.
    """

    def __init__(self, combine: How) -> None:
        self.combine = combine
        self.kept: list[Path] = []
        self.results: dict[str, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.checkpoints = checkpoints_of(trainer)
        if not isinstance(pl_module, Classification):
            task = type(pl_module).__name__
            raise UserError(f"callbacks=ensemble combines probabilities of classes, and the task {task} has none")
        if stage == "fit" and not (self.checkpoints and self.checkpoints.top_k > 1):
            raise UserError(
                "callbacks=ensemble averages kept checkpoints; use callbacks.checkpoints.top_k of 2 or more"
            )

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.fast_dev_run:
            return
        if trainer.is_global_zero:
            self.checkpoints.io.wait()
            kept = sorted(self.checkpoints.file(entry) for entry in self.checkpoints.kept)
            for entry in self.checkpoints.kept:
                require_epoch(self.checkpoints.file(entry), entry["epoch"], entry["step"])
            if len(kept) < 2:
                log.warning("no ensemble: %d checkpoint was kept; train for more epochs", len(kept))
            else:
                self.kept = kept
                self.results = {"ensemble": {"combine": self.combine, "members": [path.name for path in kept]}}
                if len(trainer.datamodule.val_index):
                    self._judge(trainer, pl_module, "val")
        trainer.strategy.barrier("ensemble")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.kept:
            self._judge(trainer, pl_module, "test")
        trainer.strategy.barrier("ensemble")

    def _judge(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: Stage) -> None:
        data = trainer.datamodule
        folder = self.checkpoints.folder.parent / "predictions"
        saved = [SavedClassifier(path, folder, partial(load_member, pl_module, path)) for path in self.kept]
        logits = stacked_logits(saved, data, stage, device=trainer.strategy.root_device)
        labels = stage_labels(data, stage)
        alone = [scores(member.log_softmax(-1), labels) for member in logits]
        ensemble = scores(combined(logits, self.combine), labels)
        self.results["ensemble"][stage] = {
            "members": alone,
            "mean": {name: fmean(member[name] for member in alone) for name in ensemble},
            "ensemble": ensemble,
            "disagreement": disagreement(logits),
        }
        for logger in trainer.loggers:
            metrics = {f"{stage}/{name}_ensemble": value for name, value in ensemble.items()}
            logger.log_metrics(metrics, step=trainer.global_step)


def load_member(pl_module: L.LightningModule, path: Path) -> L.LightningModule:
    """A copy of the module with the weights of a checkpoint: in float32, not compiled, and without its trainer."""
    member = copy.deepcopy(pl_module).float()
    member.load_state_dict(read_checkpoint_file(path)["state_dict"])
    return member
