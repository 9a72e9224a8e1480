"""Lets a person steer a run while it trains, by editing control.yaml in its directory."""

import hashlib
import logging
import os
import time
from pathlib import Path

import lightning.pytorch as L

from athanor.base.errors import UserError
from athanor.base.lightning_internals import decide_validation_after_step, logged_step
from athanor.callbacks import control_file
from athanor.callbacks.checkpoints import checkpoints_of
from athanor.optim import rates
from athanor.training.agreement import Agreement

log = logging.getLogger(__name__)

INTERVAL = 0.05  # seconds between two looks at the file
SAVED_STATE = ("seen", "digest", "values", "edits", "pending", "logged")


class Control(L.Callback):
    """Does what control.yaml in the run's directory asks for at the next optimizer step, and records it.

    `lr`, `momentum` and `weight_decay` take effect when their value differs from the one in the file before;
    `checkpoint`, `validate` and `stop` each time the file is saved with them set to true. The learning rate in the file
    is that of the first parameter group at this step: the other groups keep their ratio to it, and the schedule
    continues in proportion. A file with any mistake changes nothing and gives a warning.

    Checkpoints hold all of this: a resumed run repeats what was asked for after its checkpoint, and nothing older.
    """

    def __init__(self, agreement: Agreement | None = None) -> None:
        self.agreement = agreement or Agreement()
        self.agreement.sources["control"] = self._has_changed
        self.seen: list[int] | None = None  # time and size of the file when it was last read
        self.digest = ""  # of its contents then
        self.values: dict[str, float] = {}  # lr, momentum and weight_decay as the file last had them
        self.edits: list[dict] = []  # {step, edit}, for results.json
        self.pending: list[str] = []  # `validate` and `stop`, until the step is made
        self.logged: dict = {"step": -1, "metrics": {}}  # what was last given to the loggers

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.path = Path(trainer.default_root_dir) / "control.yaml"
        self.agreement.connect(trainer)
        self.next_look = 0.0 if trainer.is_global_zero else float("inf")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.digest and self._digest() == self.digest:  # in a copy of a run the file has another time
            self.seen = self._time_and_size()
        if self.logged["step"] == logged_step(trainer):  # loggers of a resumed run have removed the step it begins with
            self._log(trainer)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int):
        if batch_idx % trainer.accumulate_grad_batches:
            return  # within an optimizer step
        if self.agreement.ask("control", (trainer.current_epoch, batch_idx)):
            edit = self.agreement.from_main(self._read(trainer) if trainer.is_global_zero else None)
            if edit:
                self._apply(trainer, edit)
        if self.pending:
            decide_validation_after_step(trainer, lambda: self._validate_or_stop(trainer))

    def _has_changed(self) -> int:
        now = time.monotonic()
        if now < self.next_look:
            return 0
        self.next_look = now + INTERVAL
        return int(self._time_and_size() not in (None, self.seen))

    def _time_and_size(self) -> list[int] | None:
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return [status.st_mtime_ns, status.st_size]  # the size, as two writes may fall into one tick of the clock

    def _digest(self) -> str:
        try:
            return hashlib.sha256(self.path.read_bytes()).hexdigest()
        except OSError:
            return ""

    def _read(self, trainer: L.Trainer) -> dict[str, float | bool]:
        """What the file asks for. Nothing if it has a mistake, which is logged as a warning."""
        self.seen = self._time_and_size()  # before reading: what is written meanwhile will be read next time
        self.digest = self._digest()
        try:
            contents = control_file.read_control_file(self.path)
            values = {key: value for key, value in contents.items() if key in control_file.VALUES}
            edit = {key: value for key, value in values.items() if value != self.values.get(key)}
            edit |= {key: True for key in control_file.REQUESTS if contents.get(key)}
            for key in edit:
                if reason := why_impossible(trainer, key):
                    raise UserError(f"{key}: {reason}")
        except (OSError, UserError) as error:
            log.warning("control.yaml: %s; ignored", error)
            return {}
        if contents:  # an editor may empty the file before it writes
            self.values = values
        return edit

    def _apply(self, trainer: L.Trainer, edit: dict[str, float | bool]) -> None:
        step, metrics = logged_step(trainer), {}
        for name, value in edit.items():
            description = name
            if name in control_file.VALUES:
                description, metrics[name] = f"{name} {set_value(trainer, name, value):g} -> {value:g}", value
            log.info("control.yaml: %s at step %d", description, step)
            self.edits.append({"step": step, "edit": description})
        if "checkpoint" in edit:
            checkpoints_of(trainer).requested = True
        self.pending = [request for request in ("validate", "stop") if request in edit]
        if metrics:
            self.logged = {"step": step, "metrics": metrics}
            self._log(trainer)

    def _validate_or_stop(self, trainer: L.Trainer) -> bool:
        """Called when the step is made. A run that is stopped is validated too, as at the end of an epoch."""
        trainer.should_stop = trainer.should_stop or "stop" in self.pending
        self.pending = []
        return trainer.enable_validation

    def _log(self, trainer: L.Trainer) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(self.logged["metrics"], step=self.logged["step"])

    @property
    def results(self) -> dict:
        return {"control": self.edits} if self.edits else {}

    def state_dict(self) -> dict:
        return {name: getattr(self, name) for name in SAVED_STATE}

    def load_state_dict(self, state: dict) -> None:
        for name in SAVED_STATE:
            setattr(self, name, state[name])


def why_impossible(trainer: L.Trainer, key: str) -> str | None:
    """Why this run cannot do what the key asks for, as a phrase; None if it can."""
    if key == "checkpoint" and checkpoints_of(trainer) is None:
        return "this run has no callbacks.checkpoints"
    if key == "validate" and not trainer.enable_validation:
        return "this run has no validation images"
    if key not in control_file.VALUES:
        return None
    if (count := sum(bool(optimizer.param_groups) for optimizer in trainer.optimizers)) != 1:
        return f"this run has {count} optimizers, and it would be that of one"
    return rates.reason_against_change(trainer.optimizers[0], schedulers(trainer), key)


def set_value(trainer: L.Trainer, name: str, value: float) -> float:
    """Set lr, momentum or weight_decay of the optimizer and its schedules. Returns the value before."""
    optimizer = trainer.optimizers[0]
    before = rates.current_value(optimizer, name)
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
