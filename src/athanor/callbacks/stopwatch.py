"""How long a run trains."""

import time

import lightning.pytorch as L


class Stopwatch(L.Callback):
    """Seconds of fit, and images trained on per second of training steps, validation and checkpoints left out."""

    def __init__(self) -> None:
        self.fit_seconds = self.train_seconds = 0.0
        self.images = 0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.fit_started = time.perf_counter()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.mark = time.perf_counter()  # no epoch starts where one is resumed in its middle

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.mark = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx) -> None:
        now = time.perf_counter()
        self.train_seconds += now - self.mark
        self.images += len(batch[1]) * trainer.world_size
        self.mark = now

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.mark = time.perf_counter()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.fit_seconds += time.perf_counter() - self.fit_started

    def state_dict(self) -> dict:
        """What has been trained before a run is resumed counts, the time in which it lay still does not."""
        fit_seconds = self.fit_seconds + time.perf_counter() - self.fit_started
        return {"fit_seconds": fit_seconds, "train_seconds": self.train_seconds, "images": self.images}

    def load_state_dict(self, state: dict) -> None:
        self.fit_seconds, self.train_seconds, self.images = (
            state[k] for k in ("fit_seconds", "train_seconds", "images")
        )

    @property
    def images_per_second(self) -> float | None:
        return self.images / self.train_seconds if self.train_seconds else None
