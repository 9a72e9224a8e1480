"""How long an epoch and a run will take from here, from the speed of this process so far."""

import math
import time

import lightning.pytorch as L
from lightning.pytorch.callbacks import Timer


class TimeLeft:
    """Seconds that are left. The run's are at most that: early stopping, or a person, may end it before."""

    def start(self, trainer: L.Trainer) -> None:
        """To be called when the training begins, also within an epoch, where a run is resumed."""
        self.began = time.monotonic()
        self.batches, self.steps = trainer.fit_loop.total_batch_idx + 1, trainer.global_step
        self.start_epoch(trainer)
        self.first_in_epoch = self.batches % trainer.num_training_batches

    def start_epoch(self, trainer: L.Trainer) -> None:
        self.epoch_began = time.monotonic()
        self.first_in_epoch = 0

    def told(self, trainer: L.Trainer, done: int | None) -> str:
        """`left 0:40, run 12:30`: of the steps of this epoch, of which `done` are made (None: it is being validated),
        and of the run. Empty where nobody knows.
        """
        epoch = None
        if done is not None:
            epoch = self._rest(trainer.num_training_batches - done, done - self.first_in_epoch, self.epoch_began)
        named = {"": epoch, "run ": self.of_run(trainer)}
        times = ", ".join(f"{name}{clock(seconds)}" for name, seconds in named.items() if seconds is not None)
        return times and f"left {times}"

    def of_run(self, trainer: L.Trainer) -> float | None:
        """Of the run, with its validations and checkpoints: until the first of its limits."""
        ends = [timer.time_remaining() for timer in trainer.callbacks if isinstance(timer, Timer)]
        batches = trainer.fit_loop.total_batch_idx + 1
        if trainer.max_epochs not in (None, -1):
            rest = trainer.max_epochs * trainer.num_training_batches - batches
            ends.append(self._rest(rest, batches - self.batches, self.began))
        if trainer.max_steps != -1:
            steps = trainer.global_step
            ends.append(self._rest(trainer.max_steps - steps, steps - self.steps, self.began))
        return min((end for end in ends if end is not None), default=None)

    def _rest(self, rest: float, done: int, began: float) -> float | None:
        if done <= 0 or math.isinf(rest):
            return None
        return max(rest, 0) * (time.monotonic() - began) / done


def clock(seconds: float) -> str:
    """A duration as hours, minutes and seconds: `0:07`, `12:30`, `26:03:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
