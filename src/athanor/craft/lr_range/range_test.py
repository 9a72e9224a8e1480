"""The learning-rate range test (Smith 2015): train with a rate that rises at every step, and look at the loss.

A sweep goes from a tiny to a large rate in equal steps of its logarithm, every parameter group in proportion, and ends
where the loss diverges. Several sweeps over other orders of the images say how far the answer can be trusted. Nothing
of the run changes by it: parameters, buffers and random numbers are put back to the bit, the optimizer is one of its
own, and no validation image is read.
"""

import contextlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import median

import lightning.pytorch as L
import torch
import torch.distributed as dist
from lightning.pytorch.utilities.seed import isolate_rng

from athanor.data.batches import Batch, TrainBatches
from athanor.data.seeds import mix, seed_step
from athanor.tasks.classification import Classifier

SWEEPS = 0x737765657073  # names the orders of images, apart from those of the run
DIVERGED = 4  # times the best smoothed loss: the sweep ends


@dataclass(frozen=True)
class Sweep:
    """Learning rates, the training loss at each, and how much of the past the smoothed loss keeps."""

    lrs: list[float]
    losses: list[float]
    smoothing: float
    diverged: bool

    @property
    def smoothed(self) -> list[float]:
        """The exponential average, divided by the weight that it has seen (as Adam's moments are)."""
        return list(averages(self.losses, self.smoothing))

    @property
    def lowest(self) -> int:
        smoothed = self.smoothed
        return smoothed.index(min(smoothed))

    def minimum(self) -> float:
        """A tenth of the rate with the lowest loss."""
        return self.lrs[self.lowest] / 10

    def steepest(self) -> float:
        """The rate at which the loss falls most with the logarithm of the rate, before its lowest point."""
        smoothed = self.smoothed[: self.lowest + 1]
        if len(smoothed) < 3:
            return self.lrs[0]
        falls = [smoothed[i - 1] - smoothed[i + 1] for i in range(1, len(smoothed) - 1)]
        return self.lrs[1 + falls.index(max(falls))]

    def valley(self) -> float:
        """The middle of the longest falling subsequence of losses (fastai's default)."""
        first, last = longest_fall(self.smoothed)
        return self.lrs[first + (last - first) // 2]


RULES = {"minimum": Sweep.minimum, "steepest": Sweep.steepest, "valley": Sweep.valley}


@dataclass(frozen=True)
class RangeTest:
    """Its sweeps. Each rule is applied to each of them: the answer is their median, to two digits."""

    sweeps: list[Sweep]

    def found(self, rule: str) -> list[float]:
        return [RULES[rule](sweep) for sweep in self.sweeps]

    def suggestion(self, rule: str) -> float:
        return float(f"{median(self.found(rule)):.1e}")

    def spread(self, rule: str) -> float:
        """The largest answer over the smallest."""
        return max(self.found(rule)) / min(self.found(rule))

    @property
    def warnings(self) -> list[str]:
        """What makes the answer worth little."""
        ends = sum(not sweep.diverged and sweep.lowest >= len(sweep.lrs) - 2 for sweep in self.sweeps)
        starts = sum(sweep.lowest <= len(sweep.lrs) // 20 for sweep in self.sweeps)
        said = []
        if 2 * ends > len(self.sweeps):
            said.append(f"the loss still falls at {self.sweeps[0].lrs[-1]:g}: use a larger callbacks.lr_range.max_lr")
        if 2 * starts > len(self.sweeps):
            said.append(f"the loss is lowest at {self.sweeps[0].lrs[0]:g}: use a smaller callbacks.lr_range.min_lr")
        return said


def averages(losses: list[float], smoothing: float) -> Iterator[float]:
    total = weight = 0.0
    for loss in losses:
        total = smoothing * total + (1 - smoothing) * loss
        weight = smoothing * weight + (1 - smoothing)
        yield total / weight


def longest_fall(values: list[float]) -> tuple[int, int]:
    """First and last index of the longest subsequence in which each value is below the one before."""
    length, first = [1] * len(values), list(range(len(values)))
    for i, value in enumerate(values):
        for j in range(i):
            if values[j] > value and length[j] + 1 >= length[i]:  # as late a start as possible
                length[i], first[i] = length[j] + 1, first[j]
    last = length.index(max(length))
    return first[last], last


def ladder(min_lr: float, max_lr: float, steps: int) -> list[float]:
    """From min_lr to max_lr, each the same multiple of the one before."""
    return [min_lr * (max_lr / min_lr) ** (step / (steps - 1)) for step in range(steps)]


def range_test(
    trainer: L.Trainer, classifier: Classifier, lrs: list[float], sweeps: int, smoothing: float
) -> RangeTest:
    """Sweep over these learning rates of the first parameter group, from the weights that the classifier has."""
    loader = trainer.datamodule.train_dataloader()
    found = []
    with isolate_rng():
        for number in range(sweeps):
            batches = endless(replace(loader, seed=mix(loader.seed, SWEEPS, number)))
            with put_back(classifier):
                found.append(sweep(Step(trainer, classifier), batches, lrs, smoothing, number))
    return RangeTest(found)


def endless(loader: TrainBatches) -> Iterator[Batch]:
    for epoch in itertools.count():
        yield from replace(loader, position=lambda epoch=epoch: (epoch, 0))


@contextlib.contextmanager
def put_back(classifier: Classifier) -> Iterator[None]:
    """Parameters and buffers as they were, no gradients, training or not as before."""
    tensors = [*classifier.parameters(), *classifier.buffers()]
    copies = [tensor.detach().clone() for tensor in tensors]
    modes = {module: module.training for module in classifier.modules()}
    classifier.train()
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, copy in zip(tensors, copies, strict=True):
                tensor.copy_(copy)
        for parameter in classifier.parameters():
            parameter.grad = None
        for module, mode in modes.items():
            module.training = mode


def sweep(step: "Step", batches: Iterator[Batch], lrs: list[float], smoothing: float, number: int) -> Sweep:
    classifier = step.classifier
    losses: list[float] = []
    for lr in lrs:
        seed_step(classifier.device, classifier.seed, SWEEPS, classifier.global_rank, number, len(losses))
        loss = step(batches, lr)
        if not math.isfinite(loss):
            break
        losses.append(loss)
        smoothed = list(averages(losses, smoothing))
        if smoothed[-1] > DIVERGED * min(smoothed):
            break
    if not losses:
        raise FloatingPointError(
            "the loss is not finite before any step is made: there is no learning rate to look for\n"
            "  python train.py debug=anomaly names the operation"
        )
    return Sweep(lrs[: len(losses)], losses, smoothing, diverged=len(losses) < len(lrs))


class Step:
    """One optimizer step as the trainer makes it: its precision, accumulation, clipping and devices."""

    def __init__(self, trainer: L.Trainer, classifier: Classifier) -> None:
        self.trainer, self.classifier, self.precision = trainer, classifier, trainer.precision_plugin
        self.optimizer = classifier.fresh_optimizer()
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        if self.rates[0] <= 0:
            raise ValueError(f"optim.lr={self.rates[0]:g}: a range test keeps the ratios of groups; use a rate above 0")
        scales = getattr(self.precision, "scaler", None) is not None  # float16
        self.scaler = torch.amp.GradScaler(classifier.device.type, enabled=scales)

    def __call__(self, batches: Iterator[Batch], lr: float) -> float:
        """Step with this rate of the first group; the mean loss of all devices before it."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = lr * rate / self.rates[0]
        number = self.trainer.accumulate_grad_batches
        losses = [self._backward(next(batches)) / number for _ in range(number)]
        if not math.isfinite(sum(losses)):
            return math.nan
        self.scaler.unscale_(self.optimizer)
        if self.trainer.world_size > 1:
            for parameter in self.classifier.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= self.trainer.world_size
        if clip := self.trainer.gradient_clip_val:
            self.precision.clip_gradients(self.optimizer, clip, self.trainer.gradient_clip_algorithm or "norm")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return sum(losses)

    def _backward(self, batch: Batch) -> float:
        images, labels = self.trainer.datamodule.transfer_batch_to_device(batch, self.classifier.device, 0)
        with self.precision.forward_context():
            loss, _ = self.classifier.training_loss(images, labels)
        self.scaler.scale(loss / self.trainer.accumulate_grad_batches).backward()
        return self.trainer.strategy.reduce(loss.detach(), reduce_op="mean").item()
