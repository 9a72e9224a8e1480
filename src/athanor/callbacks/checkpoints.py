"""Checkpoints of a run: the last, the best and, if asked for, the best few."""

import math
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import lightning.pytorch as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.apply_func import apply_to_collection
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor


class Checkpoints(Checkpoint):
    """Writes checkpoints/last.ckpt after each epoch, links best.ckpt to it when `monitor` improves.

    With top_k above 1 the best few epochs stay as epoch_<n>.ckpt too. Unlike ModelCheckpoint it writes each epoch
    once, never leaves a torn file, and keeps no absolute path in its state, so a run's folder can be moved.
    """

    def __init__(self, monitor: str, mode: str, top_k: int) -> None:
        if top_k < 1:
            raise ValueError(f"callbacks.checkpoints.top_k={top_k} keeps no best checkpoint; use 1 or more")
        self.monitor, self.mode, self.top_k = monitor, mode, top_k
        self.kept: list[dict] = []  # epoch, score and metrics of the best epochs, best first
        self.last: dict = {}
        self.validated = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.io = trainer.strategy.checkpoint_io = BackgroundCheckpointIO()
        self.folder = Path(trainer.default_root_dir) / "checkpoints"

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.validated = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.fast_dev_run:
            return
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        if not self.validated:  # what is there is from an earlier epoch
            metrics = {name: value for name, value in metrics.items() if not name.startswith("val/")}
        self.validated = False
        score = metrics.get(self.monitor, math.nan)
        self.last = {"epoch": trainer.current_epoch, "score": score, "metrics": metrics}
        ranked = sorted([*self.kept, self.last] if math.isfinite(score) else self.kept, key=self._rank)
        dropped, self.kept = ranked[self.top_k :], ranked[: self.top_k]
        trainer.save_checkpoint(self.folder / "last.ckpt", weights_only=False)
        if trainer.is_global_zero:
            self.io.then(self._arrange, self.last, list(self.kept), dropped)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.kept and trainer.is_global_zero and (self.folder / "last.ckpt").is_file():
            self._arrange(self.last, self.kept, [])  # the run that is resumed may have been killed before it did

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict) -> None:
        """Lightning counts an epoch as completed only after this hook; with max_steps set, a resumed run would run it
        again, empty, and one that stopped in mid-epoch would skip the rest of it.
        """
        if "loops" not in checkpoint:  # weights only
            return
        loops = checkpoint["loops"]["fit_loop"]
        epoch, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
        if epoch["current"]["processed"] == epoch["current"]["completed"]:  # somebody else saves within the epoch
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

    def _rank(self, entry: dict) -> float:
        return entry["score"] if self.mode == "min" else -entry["score"]

    def _arrange(self, last: dict, kept: list[dict], dropped: list[dict]) -> None:
        """Give last.ckpt the further names that it has earned."""
        if last in kept and self.top_k > 1:
            link(self.folder / "last.ckpt", self._file(last))
        if kept and kept[0] == last:
            link(self.folder / "last.ckpt", self.folder / "best.ckpt")
        for entry in dropped:
            self._file(entry).unlink(missing_ok=True)

    def _file(self, entry: dict) -> Path:
        return self.folder / f"epoch_{entry['epoch'] + 1:03d}.ckpt"  # counted from 1, as on the screen

    @property
    def chosen(self) -> dict:
        """The epoch that is tested: the best, or the last where nothing was monitored. Has `file` in it."""
        return {"file": "best.ckpt", **self.kept[0]} if self.kept else {"file": "last.ckpt", **self.last}

    def state_dict(self) -> dict:
        return {"kept": self.kept, "last": self.last}

    def load_state_dict(self, state: dict) -> None:
        self.kept, self.last = state["kept"], state["last"]


class BackgroundCheckpointIO(TorchCheckpointIO):
    """Writes a copy in a thread, while training goes on, beside the target, and then renames it.

    A run that is killed meanwhile keeps the file from before. One write is under way at a time; its error is raised by
    the next one, or at the end of the fit.
    """

    def __init__(self) -> None:
        super().__init__()
        self.thread = ThreadPoolExecutor(1, "checkpoint")
        self.pending: Future[None] | None = None

    def save_checkpoint(self, checkpoint: dict, path: str | Path, storage_options: object = None) -> None:
        self.wait()
        copied = apply_to_collection(checkpoint, Tensor, lambda tensor: tensor.detach().to("cpu", copy=True))
        self.then(write, copied, Path(path))

    def then(self, function: Callable[..., None], *arguments: object) -> None:
        """Call it in the thread after what is under way, if that succeeds."""
        previous = self.pending

        def job() -> None:
            if previous:
                previous.result()
            function(*arguments)

        self.pending = self.thread.submit(job)

    def wait(self) -> None:
        pending, self.pending = self.pending, None
        if pending:
            pending.result()

    def teardown(self) -> None:
        self.wait()
        self.thread.shutdown()


def write(checkpoint: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    try:
        with open(beside, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)  # half a file on a full disk is in the way
        raise


def link(source: Path, target: Path) -> None:
    """A second name for a file, or a copy where the file system has no links."""
    if target.exists() and target.samefile(source):
        return  # os.replace would do nothing, and leave the part
    beside = target.with_name(f".{target.name}.part")
    beside.unlink(missing_ok=True)
    try:
        os.link(source, beside)
    except OSError:
        shutil.copy2(source, beside)
    os.replace(beside, target)
