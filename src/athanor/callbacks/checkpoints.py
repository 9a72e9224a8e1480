"""Checkpoints of a run: the last, the best and, if asked for, several epochs."""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from athanor.base.errors import UserError, require
from athanor.base.files import hard_link
from athanor.base.lightning_internals import (
    correct_saved_progress,
    set_callback_metrics,
    set_logged_step,
    stop_broadcasting_sigterm,
)
from athanor.callbacks.checkpoint_order import arrange, epoch_file
from athanor.callbacks.weight_average import averaged_updates
from athanor.tasks.measure import stage_and_name
from athanor.tasks.task import require_task
from athanor.training.agreement import Agreement
from athanor.training.checkpoint_files import BackgroundCheckpointIO, position_in
from athanor.training.signals import signals

SAVED_STATE = ("best", "kept", "last", "validated", "stopped", "ended")
TIME_IS_UP = 1  # the answer `every_minutes` has passed to the question whether to save; signals are larger numbers


@dataclass(eq=False)
class Checkpoints(Checkpoint):
    """Writes checkpoints/last.ckpt after each epoch, and hard-links it as best.ckpt and epoch_<n>.ckpt.

    monitor, mode: best.ckpt is last.ckpt of the epoch with the lowest (`min`) or highest (`max`) value of this metric;
    where callbacks=swa has begun to average weights, of the epochs since then.
    top_k, keep: with top_k above 1, so many epochs stay as epoch_<n>.ckpt, counted from 1: the `best`, the `last`, or
    those at the ends of the last `cycles` of the learning rate.
    every_minutes: write last.ckpt also within epochs, when so much time has passed; None: only at the end of epochs.
    Raises UserError for top_k below 1 and every_minutes of 0 or less.

    last.ckpt is also written when control.yaml asks for it, and at a signal that ends the run. The one before it is
    previous.ckpt until the run has finished.

    A checkpoint is first saved, which copies it to memory, and then published: when the metrics of the epoch have
    reached the loggers, these are flushed and a thread writes the file. A checkpoint on disk thus never knows more than
    the logs. Unlike Lightning's ModelCheckpoint this writes each epoch once, leaves no incomplete file, and keeps no
    absolute path in its state, so that a run's directory can be moved.
    """

    monitor: str
    mode: str
    top_k: int
    keep: Literal["best", "last", "cycles"]
    every_minutes: float | None
    agreement: Agreement = field(default_factory=Agreement)

    def __post_init__(self) -> None:
        require(self.top_k >= 1, f"callbacks.checkpoints.top_k={self.top_k} keeps no best checkpoint; use 1 or more")
        if self.every_minutes is not None and self.every_minutes <= 0:
            raise UserError(f"callbacks.checkpoints.every_minutes={self.every_minutes}: use more than 0, or null")
        # epochs that have a file, as {epoch, step, score, metrics, averaged}; empty before the first
        self.last: dict = {}
        self.best: dict = {}
        self.kept: list[dict] = []  # as epoch_<n>.ckpt; the best first, or the newest where keep is not `best`
        # the state of the run
        self.validated = False  # in the epoch that is under way
        self.stopped = False  # by early stopping
        self.ended = False  # by that, by control.yaml or by trainer.max_time
        self.is_extended = False  # a person resumes a run that has ended, so that it goes on
        self.resumed = False  # from a checkpoint, and no batch has begun yet
        self.resumed_position: dict = {}  # epoch and step of that checkpoint
        self.resumed_metrics: dict[str, Tensor] = {}
        # how it saves
        self.requested = False  # that last.ckpt be written at the next step; set by the control callback
        self.io = BackgroundCheckpointIO()
        self.agreement.sources["save"] = self._reason_to_save

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = self.io
        self.folder = Path(trainer.default_root_dir) / "checkpoints"
        if self.keep == "cycles":
            require_task(pl_module, "callbacks.checkpoints.keep=cycles")
        if stage == "fit" and trainer.is_global_zero and not trainer.fast_dev_run:
            self.folder.mkdir(parents=True, exist_ok=True)  # not later: a run's folder that is deleted stays deleted

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.agreement.connect(trainer)
        if self.resumed:  # here, as a fit that has finished does not start to train
            self.best, self.kept = self.agreement.from_main(self._arranged() if trainer.is_global_zero else None)
        if trainer.world_size > 1:
            stop_broadcasting_sigterm(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        signals.take()
        signals.saves_at_step = not trainer.fast_dev_run
        self.saved_at = time.monotonic()
        set_callback_metrics(trainer, self.resumed_metrics)
        if self.stopped or (self.ended and not self.is_extended):  # which Lightning does not save
            trainer.should_stop = True

    # when to save, and when to publish what was saved

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int):
        if self.resumed:
            set_logged_step(trainer)
            self.resumed = self.ended = False
        if batch_idx % trainer.accumulate_grad_batches:
            return  # a checkpoint does not hold gradients that are still being accumulated
        reason = self.agreement.ask("save", (trainer.current_epoch, batch_idx))
        if not (reason or self.requested):
            return
        if batch_idx:  # at batch 0, the end of the last epoch has just been saved
            self._save(trainer)
            self._publish(trainer)
            self.requested = False
        self.saved_at = time.monotonic()
        self._end_if_signalled(reason)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.fast_dev_run:
            return
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        if not self.validated:  # these are from an earlier epoch
            metrics = {name: value for name, value in metrics.items() if stage_and_name(name)[0] != "val"}
        score = metrics.get(self.monitor, math.nan)
        self.last = {"epoch": trainer.current_epoch, "step": trainer.global_step, "score": score, "metrics": metrics}
        self.last["averaged"] = averaged_updates(trainer)
        self.validated, self.requested = False, False
        self.stopped, self.ended = stopped_early(trainer), trainer.should_stop
        dropped = self._update_best_and_kept(trainer)
        self._save(trainer)
        if trainer.is_global_zero:
            self.io.then(self._link, self.last, self.best, list(self.kept), dropped)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._publish(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._publish(trainer)
        self._end_if_signalled(self.agreement.ask("save", "at the end"))
        signals.saves_at_step = False

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.resumed and self.last.get("step") == trainer.global_step:  # this fit found that the run had ended
            trainer.fit_loop.epoch_progress.current.completed = self.last["epoch"] + 1  # also within an epoch

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        signals.saves_at_step = False
        self.io.held.clear()  # not published: the metrics of its epoch may be missing in the logs

    def _reason_to_save(self) -> int:
        """A signal, TIME_IS_UP or 0, as this process alone sees it; the processes then agree on the largest."""
        is_due = self.every_minutes and time.monotonic() - self.saved_at > 60 * self.every_minutes
        return signals.asked or (TIME_IS_UP if is_due else 0)

    def _save(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self.folder / "last.ckpt", weights_only=False)
        self.saved_at = time.monotonic()

    def _publish(self, trainer: L.Trainer) -> None:
        if trainer.is_global_zero and self.io.held:
            for logger in trainer.loggers:
                logger.save()
            self.io.release()

    def _end_if_signalled(self, reason: int) -> None:
        if reason > TIME_IS_UP:
            self.io.wait()
            signals.leave(reason)

    # which epochs to keep

    def _update_best_and_kept(self, trainer: L.Trainer) -> list[dict]:
        """Compare the epoch that has just ended with those before; the result are the epochs that no longer stay."""
        has_score = math.isfinite(self.last["score"])
        if has_score and (not self.best or self._cost(self.last) < self._cost(self.best)):
            self.best = self.last
        may_stay = {"best": has_score, "last": True, "cycles": self.keep == "cycles" and ends_cycle(trainer)}
        epochs = [*self.kept, self.last] if may_stay[self.keep] else self.kept
        epochs = sorted(epochs, key=self._cost if self.keep == "best" else lambda entry: -entry["epoch"])
        self.kept = epochs[: self.top_k]
        return epochs[self.top_k :]

    def _cost(self, entry: dict) -> tuple[bool, float]:
        """The least is best. Averaged weights come before raw ones, which SWA saves until it begins."""
        return not entry["averaged"], entry["score"] if self.mode == "min" else -entry["score"]

    def _link(self, last: dict, best: dict, kept: list[dict], dropped: list[dict]) -> None:
        """Hard-link last.ckpt as best.ckpt and epoch_<n>.ckpt where it is among them, and remove what was dropped."""
        if last in kept and self.top_k > 1:
            hard_link(self.folder / "last.ckpt", self.file(last))
        if best == last:
            hard_link(self.folder / "last.ckpt", self.folder / "best.ckpt")
        for entry in dropped:
            self.file(entry).unlink(missing_ok=True)

    def _arranged(self) -> tuple[dict, list[dict]]:
        """The best epoch and the kept ones of which a file is left, when the files are those that the state names."""
        kept = self.kept if self.top_k > 1 else None
        best, left = arrange(self.folder, self.resumed_position, self.last, self.best, kept, self._cost)
        return best, self.kept if kept is None else left

    def file(self, entry: dict) -> Path:
        return epoch_file(self.folder, entry)

    @property
    def chosen(self) -> dict:
        """The epoch that is tested, with the name of its `file`: the best, or the last where none has a score."""
        return {**self.best, "file": "best.ckpt"} if self.best else {**self.last, "file": "last.ckpt"}

    # what a checkpoint holds

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.validated = True

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict) -> None:
        if "loops" in checkpoint:  # not a checkpoint of weights only
            checkpoint["metrics"] = {name: value.item() for name, value in trainer.callback_metrics.items()}
            correct_saved_progress(trainer, checkpoint)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict) -> None:
        self.resumed_position = dict(zip(("epoch", "step"), position_in(checkpoint), strict=True))
        self.resumed_metrics = {name: torch.tensor(value) for name, value in checkpoint["metrics"].items()}

    def state_dict(self) -> dict:
        return {name: getattr(self, name) for name in SAVED_STATE}

    def load_state_dict(self, state: dict) -> None:
        for name in SAVED_STATE:
            setattr(self, name, state[name])
        self.resumed = True


def checkpoints_of(trainer: L.Trainer) -> Checkpoints | None:
    """The callback of this trainer, if it has one."""
    return next((callback for callback in trainer.callbacks if isinstance(callback, Checkpoints)), None)


def ends_cycle(trainer: L.Trainer) -> bool:
    """Whether the learning rate begins to rise again before another epoch has ended, or the training ends here.

    Raises UserError where no schedule is a function of the step.
    """
    forms = [c.scheduler.lr_lambdas[0] for c in trainer.lr_scheduler_configs if isinstance(c.scheduler, LambdaLR)]
    require(forms, "callbacks.checkpoints.keep=cycles needs a rate that has them; use scheduler=cosine_restarts")
    run, step = trainer.lightning_module.run_length, trainer.global_step
    if step >= run.steps:
        return True
    rates = [forms[0](at) for at in range(max(step - 2, 0), step + run.per_epoch)]
    return any(a >= b < c for a, b, c in zip(rates, rates[1:], rates[2:], strict=False))


def stopped_early(trainer: L.Trainer) -> bool:
    """Whether EarlyStopping ends the run, which it would also do with more epochs or more time."""
    rules = [callback for callback in trainer.callbacks if isinstance(callback, EarlyStopping)]
    return trainer.should_stop and any(rule.wait_count >= rule.patience or rule.stopped_epoch for rule in rules)
