"""Measures how long a run trains, and how many images it trains on per second."""

import time

import lightning.pytorch as L
from lightning.pytorch.utilities.data import extract_batch_size

SAVED_STATE = ("fit_seconds", "train_seconds", "images")


class Stopwatch(L.Callback):
    """fit_seconds: duration of trainer.fit. images_per_second: of training steps, without validation and checkpoints.

    Both include the time before a run was resumed, but not the time in which it did not run.
    """

    def __init__(self) -> None:
        self.fit_seconds = self.train_seconds = 0.0
        self.images = 0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.fit_started = time.perf_counter()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.fit_seconds += time.perf_counter() - self.fit_started

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx) -> None:
        now = time.perf_counter()
        self.train_seconds += now - self.step_started
        is_pair = isinstance(batch, (tuple, list)) and len(batch) == 2
        self.images += (len(batch[1]) if is_pair else extract_batch_size(batch)) * trainer.world_size
        self.step_started = now

    def start_step(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.step_started = time.perf_counter()

    # whatever comes between two steps; a run that is resumed within an epoch has no start of that epoch
    on_train_start = on_train_epoch_start = on_validation_end = start_step

    def state_dict(self) -> dict:
        fit_seconds = self.fit_seconds + time.perf_counter() - self.fit_started
        return {name: getattr(self, name) for name in SAVED_STATE} | {"fit_seconds": fit_seconds}

    def load_state_dict(self, state: dict) -> None:
        for name in SAVED_STATE:
            setattr(self, name, state[name])

    @property
    def images_per_second(self) -> float | None:
        return self.images / self.train_seconds if self.train_seconds else None
