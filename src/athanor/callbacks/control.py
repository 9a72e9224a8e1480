"""A running run that listens: control.yaml in its directory, which a person edits while it trains."""

import logging
import os
import time
from pathlib import Path

import lightning.pytorch as L

from athanor.callbacks import control_file
from athanor.callbacks.checkpoints import checkpoints_of
from athanor.optim import rates
from athanor.training.agreement import Agreement

log = logging.getLogger(__name__)

INTERVAL = 0.05  # seconds between two looks at the file
STATE = ("seen", "values", "edits", "pending", "logged")


class Control(L.Callback):
    """Does what control.yaml in the run's directory says, at the step after it is saved, and writes down what it did.

    `lr`, `momentum` and `weight_decay` act when they are not what they were in the file before; `checkpoint`,
    `validate` and `stop`, each time the file is saved with them true. The learning rate that is asked for is the
    first group's at this step; the others keep their ratio to it, and the schedule goes on in proportion. A file that
    is wrong anywhere does nothing but a warning.

    All of it is in the checkpoints: a resumed run does again what was asked for after the last of them, and nothing
    that was asked for before.
    """

    def __init__(self, agreement: Agreement | None = None) -> None:
        self.agreement = agreement or Agreement()
        self.agreement.sources["control"] = self._is_new
        self.seen: list[int] | None = None  # time and size of the file when it was last read
        self.values: dict[str, float] = {}  # in it
        self.edits: list[dict] = []
        self.pending: list[str] = []  # what waits for the end of the step
        self.logged: dict = {"step": -1, "metrics": {}}  # the last that went to the loggers

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.path = Path(trainer.default_root_dir) / "control.yaml"
        self.agreement.connect(trainer)
        self.next_look = 0.0 if trainer.is_global_zero else float("inf")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.logged["step"] == trainer.global_step:  # the loggers of a resumed run forget the step it goes on with
            self._log(trainer)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int):
        if batch_idx % trainer.accumulate_grad_batches:
            return  # the same step
        if self.agreement.ask("control", (trainer.current_epoch, batch_idx)):
            edit = self.agreement.from_main(self._read(trainer) if trainer.is_global_zero else None)
            if edit:
                self._apply(trainer, edit)
        if self.pending:
            self._at_end_of_step(trainer)

    def _is_new(self) -> int:
        now = time.monotonic()
        if now < self.next_look:
            return 0
        self.next_look = now + INTERVAL
        return int(self._stamp() not in (None, self.seen))

    def _stamp(self) -> list[int] | None:
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return [status.st_mtime_ns, status.st_size]  # with the size: two writes within a tick of the clock

    def _read(self, trainer: L.Trainer) -> dict[str, float | bool]:
        """What is to be done; nothing where something is wrong, which is said."""
        self.seen = self._stamp()  # before it is read: what is written meanwhile is new
        try:
            found = control_file.read(self.path)
            values = {key: value for key, value in found.items() if key in control_file.VALUES}
            edit = {key: value for key, value in values.items() if value != self.values.get(key)}
            edit |= {key: True for key in control_file.REQUESTS if found.get(key)}
            for key in edit:
                if reason := obstacle(trainer, key):
                    raise ValueError(f"{key}: {reason}")
        except (OSError, ValueError) as error:
            log.warning("control.yaml: %s; ignored", error)
            return {}
        if found:  # an editor may empty the file before it writes
            self.values = values
        return edit

    def _apply(self, trainer: L.Trainer, edit: dict[str, float | bool]) -> None:
        step, metrics = trainer.global_step, {}
        for name, value in edit.items():
            said = name
            if name in control_file.VALUES:
                said, metrics[name] = f"{name} {change(trainer, name, value):g} -> {value:g}", value
            log.info("control.yaml: %s at step %d", said, step)
            self.edits.append({"step": step, "edit": said})
        if "checkpoint" in edit:
            checkpoints_of(trainer).requested = True
        self.pending = [request for request in ("validate", "stop") if request in edit]
        if metrics:
            self.logged = {"step": step, "metrics": metrics}
            self._log(trainer)

    def _at_end_of_step(self, trainer: L.Trainer) -> None:
        """Validate when the optimizer has made the step, and end the training there if that is asked for.

        Lightning decides after each batch whether to validate, or to end, also where gradients are still being summed.
        """
        loop = trainer.fit_loop.epoch_loop

        def decide(data_fetcher: object) -> bool:
            if loop._should_accumulate():
                return type(loop)._should_check_val_fx(loop, data_fetcher)
            del loop._should_check_val_fx
            trainer.should_stop = trainer.should_stop or "stop" in self.pending
            self.pending = []
            return trainer.enable_validation

        loop._should_check_val_fx = decide

    def _log(self, trainer: L.Trainer) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(self.logged["metrics"], step=self.logged["step"])

    @property
    def results(self) -> dict:
        return {"control": self.edits} if self.edits else {}

    def state_dict(self) -> dict:
        return {name: getattr(self, name) for name in STATE}

    def load_state_dict(self, state: dict) -> None:
        for name in STATE:
            setattr(self, name, state[name])


def obstacle(trainer: L.Trainer, key: str) -> str | None:
    """Why this run cannot do it, or None."""
    if key == "checkpoint" and checkpoints_of(trainer) is None:
        return "this run has no callbacks.checkpoints"
    if key == "validate" and not trainer.enable_validation:
        return "this run has no validation images"
    if key not in control_file.VALUES:
        return None
    return rates.obstacle(trainer.optimizers[0], schedulers(trainer), key)


def change(trainer: L.Trainer, name: str, value: float) -> float:
    """Set it, and say what it was."""
    optimizer = trainer.optimizers[0]
    before = rates.current(optimizer, name)
    if name == "lr":
        rates.scale_lr(optimizer, schedulers(trainer), value / before)
    elif name == "weight_decay":
        rates.set_weight_decay(optimizer, schedulers(trainer), value)
    else:
        for group in optimizer.param_groups:
            rates.set_momentum(group, value)
    return before


def schedulers(trainer: L.Trainer) -> list:
    return [config.scheduler for config in trainer.lr_scheduler_configs]
