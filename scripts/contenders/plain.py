"""The fastest training loop that PyTorch allows by hand: what a framework's overhead is measured against.

Images stay uint8 in memory, or on the GPU. A batch is one gather by a permutation, cropped, flipped and standardised as
a whole; convolutions are channels_last, the optimizer is fused, and loss and accuracy are read once an epoch.
"""

import ctypes
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athanor.training.precision import set_matmul_precision
from contenders import task


def keep_freed_memory() -> None:
    """As athanor.training.overhead does it, without importing Lightning for it."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(-4, 0)
    mallopt(-1, 2**31 - 1)


def main() -> None:
    cfg = task.compose(task.parser().parse_args().overrides)
    task.write(Loop(cfg, task.Data(cfg)).fit(cfg["trainer"]["max_epochs"]))


class Loop:
    """The network of a config, trained on its data."""

    def __init__(self, cfg: dict, data: task.Data) -> None:
        torch.manual_seed(cfg["seed"])
        self.device = task.device(cfg)
        set_matmul_precision(cfg["matmul_precision"], self.device.type)
        keep_freed_memory()
        self.images, self.labels = data.images.to(self.device), data.labels.to(self.device)
        self.train_index, self.val_index = data.train_index.to(self.device), data.val_index.to(self.device)
        self.data, self.batch_size, self.augment = data, data.batch_size, data.augment
        fitted = data.standardize().to(self.device)
        self.mean, self.scale = fitted.mean, fitted.std.reciprocal()
        self.network = task.network(cfg, data).to(self.device)
        self.has_convolutions = any(isinstance(module, nn.Conv2d) for module in self.network.modules())
        if self.has_convolutions:
            self.network.to(memory_format=torch.channels_last)
        self.optimizer = task.optimizer(cfg, self.network)
        self.draws = torch.Generator(self.device).manual_seed(cfg["seed"])
        mixed = cfg["trainer"]["precision"] == "bf16-mixed"
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=mixed)

    def fit(self, epochs: int) -> dict[str, Any]:
        began = time.perf_counter()
        epoch_seconds = []
        for _ in range(epochs):
            epoch_seconds.append(self.timed_epoch())
            val_acc = self.validate()
        return {
            "epoch_seconds": epoch_seconds,
            "fit_s": time.perf_counter() - began,
            "images": self.data.steps * self.batch_size,
            "val_acc": val_acc,
            **task.facts(self.device),
        }

    def timed_epoch(self) -> float:
        self.network.train()
        began = time.perf_counter()
        self.train_epoch()  # ends with reading the sums, which waits for a GPU
        return time.perf_counter() - began

    def train_epoch(self) -> tuple[float, float]:
        """Loss and accuracy, as a loop by hand would print them."""
        order = self.train_index[torch.randperm(len(self.train_index), device=self.device)]
        sums = torch.zeros(2, device=self.device)
        for images, labels in self.batches(order[: self.data.steps * self.batch_size], self.batch_size):
            if self.augment:
                images = self.augment(images, self.draws, total=self.batch_size)
            logits = self.logits(images)
            loss = F.cross_entropy(logits, labels)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            sums += torch.stack([loss.detach(), (logits.argmax(1) == labels).float().mean()])
        return tuple((sums / self.data.steps).tolist())

    @torch.inference_mode()
    def validate(self) -> float:
        self.network.eval()
        correct = torch.zeros((), device=self.device)
        for images, labels in self.batches(self.val_index, self.data.eval_batch_size):
            correct += (self.logits(images).argmax(1) == labels).sum()
        return correct.item() / len(self.val_index)

    def batches(self, order: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for chosen in order.split(size):
            yield self.images.index_select(0, chosen), self.labels.index_select(0, chosen)

    def logits(self, images: Tensor) -> Tensor:
        pixels = images.float().sub_(self.mean).mul_(self.scale)
        if self.has_convolutions:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        with self.autocast:
            return self.network(pixels).float()


if __name__ == "__main__":
    main()
