"""The fastest training loop that PyTorch allows by hand: a framework's overhead is measured against it.

Images stay uint8 in memory, or on the GPU. A batch is one gather by a permutation; it is cropped, flipped and
standardised as a whole. Convolutions are channels_last, the optimizer is fused, and loss and accuracy are read once an
epoch. Lightning is not imported.
"""

import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athanor.training.memory import keep_freed_memory
from athanor.training.precision import set_matmul_precision
from contenders import task


def main() -> None:
    cfg, _ = task.from_command_line()
    task.write_report(Loop(cfg, task.Data(cfg)).fit(cfg["trainer"]["max_epochs"]))


class Loop:
    """The network of a config, trained on its data."""

    def __init__(self, cfg: dict, data: task.Data) -> None:
        # the process, set up as assemble.trainer does it
        torch.manual_seed(cfg["seed"])
        self.device = task.device_of(cfg)
        set_matmul_precision(cfg["compute"]["matmul_precision"], self.device.type)
        keep_freed_memory()

        # data
        self.data = data
        self.images = data.images.to(self.device)
        self.labels = data.labels.to(self.device)
        self.train_index = data.train_index.to(self.device)
        self.val_index = data.val_index.to(self.device)
        self.random = torch.Generator(self.device).manual_seed(cfg["seed"])
        preprocess = data.standardize().to(self.device)
        self.mean = preprocess.mean
        self.scale = preprocess.std.reciprocal()

        # model
        self.network = task.make_network(cfg, data).to(self.device)
        self.has_convolutions = any(isinstance(module, nn.Conv2d) for module in self.network.modules())
        if self.has_convolutions:
            self.network.to(memory_format=torch.channels_last)
        self.optimizer = task.make_optimizer(cfg, self.network)
        is_mixed = cfg["trainer"]["precision"] == "bf16-mixed"
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=is_mixed)

    def fit(self, epochs: int) -> dict[str, Any]:
        """Train for so many epochs with a validation after each, and report the times."""
        started = time.perf_counter()
        epoch_seconds = []
        for _ in range(epochs):
            epoch_seconds.append(self.train_epoch())
            val_acc = self.validate()
        fit_s = time.perf_counter() - started
        return task.training_report(epoch_seconds, fit_s, self.data.steps * self.data.batch_size, val_acc, self.device)

    def train_epoch(self) -> float:
        """Train on all training images once, in whole batches; the seconds that it took."""
        self.network.train()
        started = time.perf_counter()
        order = self.train_index[torch.randperm(len(self.train_index), device=self.device)]
        sums = torch.zeros(2, device=self.device)
        batch_size = self.data.batch_size
        for images, labels in self.batches(order[: self.data.steps * batch_size], batch_size):
            if self.data.augment:
                images = self.data.augment(images, self.random, total=batch_size)
            logits = self.logits(images)
            loss = F.cross_entropy(logits, labels)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            sums += torch.stack([loss.detach(), (logits.argmax(1) == labels).float().mean()])
        (sums / self.data.steps).tolist()  # loss and accuracy, which a loop by hand would print; waits for a GPU
        return time.perf_counter() - started

    @torch.inference_mode()
    def validate(self) -> float:
        """Accuracy on the validation images."""
        self.network.eval()
        correct = torch.zeros((), device=self.device)
        for images, labels in self.batches(self.val_index, self.data.eval_batch_size):
            correct += (self.logits(images).argmax(1) == labels).sum()
        return correct.item() / len(self.val_index)

    def batches(self, order: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for index in order.split(size):
            yield self.images.index_select(0, index), self.labels.index_select(0, index)

    def logits(self, images: Tensor) -> Tensor:
        """float32 [N, classes] of uint8 images [N, C, H, W]."""
        pixels = images.float().sub_(self.mean).mul_(self.scale)
        if self.has_convolutions:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        with self.autocast:
            return self.network(pixels).float()


if __name__ == "__main__":
    main()
