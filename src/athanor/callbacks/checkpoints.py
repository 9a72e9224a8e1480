"""Checkpoints of a run: the last, the best and, if asked for, the best few."""

import math
import time
from pathlib import Path
from typing import Literal

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from athanor.training.agreement import Agreement
from athanor.training.checkpoint_files import BackgroundCheckpointIO, link
from athanor.training.signals import signals

STATE = ("best", "kept", "last", "validated", "stopped")
CLOCK = 1  # that `every_minutes` has passed; larger numbers are signals


class Checkpoints(Checkpoint):
    """Writes checkpoints/last.ckpt after each epoch, links best.ckpt to it when `monitor` improves.

    With top_k above 1 a few epochs stay as epoch_<n>.ckpt too: the best, the last, or the ends of the last cycles of
    the learning rate, as `keep` says. With every_minutes last.ckpt is written within epochs as well, and at a signal
    that asks the run to end. What was last.ckpt is previous.ckpt until the run has finished. Unlike ModelCheckpoint it
    writes each epoch once, never leaves a torn file, and keeps no absolute path in its state, so a run's folder can be
    moved.
    """

    def __init__(
        self,
        monitor: str,
        mode: str,
        top_k: int,
        keep: Literal["best", "last", "cycles"],
        every_minutes: float | None,
        agreement: Agreement | None = None,
    ) -> None:
        if top_k < 1:
            raise ValueError(f"callbacks.checkpoints.top_k={top_k} keeps no best checkpoint; use 1 or more")
        if every_minutes is not None and every_minutes <= 0:
            raise ValueError(f"callbacks.checkpoints.every_minutes={every_minutes}: use more than 0, or null")
        self.monitor, self.mode, self.top_k, self.every_minutes = monitor, mode, top_k, every_minutes
        self.keep = keep
        self.kept: list[dict] = []  # epoch, step, score and metrics of the epochs that stay, the dearest first
        self.best, self.last = {}, {}  # the same
        self.metrics: dict[str, Tensor] = {}  # that the resumed checkpoint knew
        self.validated = self.stopped = self.resumed = False
        self.wanted = False  # last.ckpt, as soon as there is something new; the same on all processes
        self.agreement = agreement or Agreement()
        self.agreement.sources["save"] = self._asked
        self.io = BackgroundCheckpointIO()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = self.io
        self.folder = Path(trainer.default_root_dir) / "checkpoints"
        if stage == "fit" and trainer.is_global_zero and not trainer.fast_dev_run:
            self.folder.mkdir(parents=True, exist_ok=True)  # once: a run that somebody deletes does not come back

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.agreement.connect(trainer)
        if trainer.world_size > 1:
            # ours agrees on all signals; Lightning's broadcasts one of them at each step, and makes a GPU wait for it
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # of a validation within the epoch, by which its end is judged
        trainer._logger_connector._callback_metrics.update(self.metrics)
        signals.take()
        signals.somebody_saves = not trainer.fast_dev_run
        self.saved_at = time.monotonic()
        if self.stopped:  # early; Lightning forgets it
            trainer.should_stop = True
        at_end_of_epoch = self.last.get("step") == trainer.global_step
        if at_end_of_epoch and trainer.is_global_zero and (self.folder / "last.ckpt").is_file():
            self._arrange(
                self.last, self.best, self.kept, []
            )  # the run that is resumed may have been killed before it did

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._publish(trainer)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int):
        if self.resumed:  # Lightning counts a step that it resumes at twice, and logs the following one step too late
            trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
            self.resumed = False
        if batch_idx % trainer.accumulate_grad_batches:
            return  # gradients that are half summed are in no checkpoint
        asked = self.agreement.ask("save", (trainer.current_epoch, batch_idx))
        if not (asked or self.wanted):
            return
        if batch_idx:  # else the end of the last epoch has just been saved
            trainer.save_checkpoint(self.folder / "last.ckpt", weights_only=False)
            self._publish(trainer)
            self.wanted = False
        self.saved_at = time.monotonic()
        if asked > CLOCK:
            self.io.wait()
            signals.leave(asked)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.validated = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.fast_dev_run:
            return
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        if not self.validated:  # what is there is from an earlier epoch
            metrics = {name: value for name, value in metrics.items() if not name.startswith("val/")}
        self.validated, self.wanted, self.stopped = False, False, stopped_early(trainer)
        score = metrics.get(self.monitor, math.nan)
        self.last = {"epoch": trainer.current_epoch, "step": trainer.global_step, "score": score, "metrics": metrics}
        if math.isfinite(score) and (not self.best or self._rank(self.last) < self._rank(self.best)):
            self.best = self.last
        ranked = sorted([*self.kept, self.last] if self._is_candidate(trainer) else self.kept, key=self._place)
        dropped, self.kept = ranked[self.top_k :], ranked[: self.top_k]
        trainer.save_checkpoint(self.folder / "last.ckpt", weights_only=False)
        if trainer.is_global_zero:
            self.io.then(self._arrange, self.last, self.best, list(self.kept), dropped)
        self.saved_at = time.monotonic()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._publish(trainer)
        if (asked := self.agreement.ask("save", "at the end")) > CLOCK:
            self.io.wait()
            signals.leave(asked)
        signals.somebody_saves = False

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        signals.somebody_saves = False
        self.io.held.clear()  # the end of an epoch that may not be logged yet

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict) -> None:
        """Lightning counts an epoch or a batch as completed only after the hooks in which we save; with max_steps set,
        a resumed run would run the epoch again, empty, and one that stopped in mid-epoch would skip the rest of it.
        """
        if "loops" not in checkpoint:  # weights only
            return
        checkpoint["metrics"] = {name: value.item() for name, value in trainer.callback_metrics.items()}
        loops = checkpoint["loops"]["fit_loop"]
        epoch, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
        if epoch["current"]["processed"] == epoch["current"]["completed"]:  # within the epoch
            for part in "total", "current":
                batches[part] = dict.fromkeys(batches[part], batches[part]["completed"])
            batches["is_last_batch"] = False
            return
        if not trainer.fit_loop.epoch_loop._num_ready_batches_reached():
            for part in "total", "current":
                epoch[part]["processed"] = epoch[part]["completed"]
            return
        for part in "total", "current":
            epoch[part]["completed"] = epoch[part]["processed"]
        batches["is_last_batch"] = False
        optimizer = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
        for progress in (batches, loops["epoch_loop.scheduler_progress"], *optimizer.values()):
            progress["current"] = dict.fromkeys(progress["current"], 0)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict) -> None:
        self.metrics = {name: torch.tensor(value) for name, value in checkpoint["metrics"].items()}

    def _asked(self) -> int:
        """A signal, CLOCK, or 0: of this process, before it agrees with the others, so that they save together."""
        if signals.asked:
            return signals.asked
        return CLOCK if self.every_minutes and time.monotonic() - self.saved_at > 60 * self.every_minutes else 0

    def _publish(self, trainer: L.Trainer) -> None:
        """Let what was saved be written, now that all that was logged before it is on disk."""
        if trainer.is_global_zero and self.io.held:
            for logger in trainer.loggers:
                logger.save()
            self.io.release()

    def _rank(self, entry: dict) -> float:
        return entry["score"] if self.mode == "min" else -entry["score"]

    def _is_candidate(self, trainer: L.Trainer) -> bool:
        """Whether the epoch that has just ended may stay."""
        if self.keep == "cycles":
            return ends_cycle(trainer)
        return self.keep == "last" or math.isfinite(self.last["score"])

    def _place(self, entry: dict) -> float:
        return self._rank(entry) if self.keep == "best" else -entry["epoch"]

    def _arrange(self, last: dict, best: dict, kept: list[dict], dropped: list[dict]) -> None:
        """Give last.ckpt the further names that it has earned."""
        if last in kept and self.top_k > 1:
            link(self.folder / "last.ckpt", self.file(last))
        if best == last:
            link(self.folder / "last.ckpt", self.folder / "best.ckpt")
        for entry in dropped:
            self.file(entry).unlink(missing_ok=True)

    def file(self, entry: dict) -> Path:
        return self.folder / f"epoch_{entry['epoch'] + 1:03d}.ckpt"  # counted from 1, as on the screen

    @property
    def chosen(self) -> dict:
        """The epoch that is tested: the best, or the last where nothing was monitored. Has `file` in it."""
        return {"file": "best.ckpt", **self.best} if self.best else {"file": "last.ckpt", **self.last}

    def state_dict(self) -> dict:
        return {name: getattr(self, name) for name in STATE}

    def load_state_dict(self, state: dict) -> None:
        for name in STATE:
            setattr(self, name, state[name])
        self.resumed = True


def checkpoints_of(trainer: L.Trainer) -> Checkpoints | None:
    return next((callback for callback in trainer.callbacks if isinstance(callback, Checkpoints)), None)


def ends_cycle(trainer: L.Trainer) -> bool:
    """Whether the learning rate begins to rise again before another epoch has ended, or the training ends here."""
    forms = [c.scheduler.lr_lambdas[0] for c in trainer.lr_scheduler_configs if isinstance(c.scheduler, LambdaLR)]
    if not forms:
        raise ValueError("callbacks.checkpoints.keep=cycles needs a rate that has them; use scheduler=cosine_restarts")
    run, ended = trainer.lightning_module.run_length, trainer.global_step
    if ended >= run.steps:
        return True
    coming = [forms[0](step) for step in range(max(ended - 2, 0), ended + run.per_epoch)]
    return any(a >= b < c for a, b, c in zip(coming, coming[1:], coming[2:], strict=False))


def stopped_early(trainer: L.Trainer) -> bool:
    """By a rule that a run with more epochs or more time would follow as well."""
    rules = [callback for callback in trainer.callbacks if isinstance(callback, EarlyStopping)]
    return trainer.should_stop and any(rule.wait_count >= rule.patience or rule.stopped_epoch for rule in rules)
