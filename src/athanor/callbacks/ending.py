"""Which rule ended a training."""

import lightning.pytorch as L
from lightning.pytorch.callbacks import Timer

from athanor.callbacks.checkpoints import stopped_early
from athanor.callbacks.control import Control


def ended_by(trainer: L.Trainer) -> str:
    """early_stopping, max_steps, max_epochs, control.yaml, max_time, or `a callback` that asked for the end.

    Of several that hold at the end, the first of these: a limit that is reached ends a run whatever else asks for it,
    and what early stopping has ended, more epochs would not continue.
    """
    steps, epochs = trainer.max_steps, trainer.max_epochs
    edits = [edit["edit"] for callback in trainer.callbacks if isinstance(callback, Control) for edit in callback.edits]
    timers = [callback.time_remaining() for callback in trainer.callbacks if isinstance(callback, Timer)]
    rules = {
        "early_stopping": stopped_early(trainer),
        "max_steps": steps != -1 and trainer.global_step >= steps,
        "max_epochs": epochs not in (None, -1) and trainer.current_epoch >= epochs,
        "control.yaml": "stop" in edits,
        "max_time": any(seconds is not None and seconds <= 0 for seconds in timers),
    }
    return next((rule for rule, holds in rules.items() if holds), "a callback")
