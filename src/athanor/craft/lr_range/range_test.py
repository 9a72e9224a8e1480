"""The learning-rate range test (Smith 2015): train with a rate that rises at every step, and look at the loss.

A sweep goes from a very small to a large rate in equal steps of its logarithm, every parameter group in proportion, and
ends where the loss diverges. Several sweeps, each over another order of the images and but for the first from other
initial weights, show how far the answer can be trusted. The run is not changed: parameters, buffers and random numbers
are restored to the bit, the optimizer is a separate one, and no validation image is read.
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

from athanor.base.errors import NonFiniteError, UserError
from athanor.data.batches import Batch, TrainBatches
from athanor.data.seeds import mix, seed_step
from athanor.tasks.task import Task

SWEEPS = 0x737765657073  # keeps the orders of images and the random numbers of sweeps apart from those of the run
DIVERGED = 4  # times the best smoothed loss: the sweep ends
MOST_SPREAD = 10  # between the answers of the sweeps: beyond it their median is an accident


@dataclass(frozen=True)
class RangeSweep:
    """Learning rates and the training loss at each. smoothing: the share of the past in the smoothed loss, in [0, 1).

    diverged: whether the sweep ended before the largest rate.
    """

    lrs: list[float]
    losses: list[float]
    smoothing: float
    diverged: bool

    @property
    def smoothed(self) -> list[float]:
        return smoothed_losses(self.losses, self.smoothing)

    @property
    def lowest(self) -> int:
        """The index of the lowest smoothed loss."""
        smoothed = self.smoothed
        return smoothed.index(min(smoothed))

    def minimum(self) -> float:
        """A fifth of the rate with the lowest loss."""
        return self.lrs[self.lowest] / 5

    def steepest(self) -> float:
        """The rate at which the loss falls most with the logarithm of the rate, before its lowest point."""
        smoothed = self.smoothed[: self.lowest + 1]
        if len(smoothed) < 3:
            return self.lrs[0]
        falls = [smoothed[i - 1] - smoothed[i + 1] for i in range(1, len(smoothed) - 1)]
        return self.lrs[1 + falls.index(max(falls))]


RULES = {"minimum": RangeSweep.minimum, "steepest": RangeSweep.steepest}


@dataclass(frozen=True)
class RangeTest:
    """Several sweeps. Each rule is applied to each sweep; the suggestion is the median, to two digits."""

    sweeps: list[RangeSweep]

    def answers(self, rule: str) -> list[float]:
        """The learning rate that a rule gives for each sweep."""
        return [RULES[rule](sweep) for sweep in self.sweeps]

    def suggestion(self, rule: str) -> float:
        return float(f"{median(self.answers(rule)):.1e}")

    def spread(self, rule: str) -> float:
        """The largest answer over the smallest."""
        return max(self.answers(rule)) / min(self.answers(rule))

    def check_spread(self, rule: str, words: str = "callbacks=lr_range") -> None:
        """Raise UserError where the answers of the sweeps lie more than MOST_SPREAD apart. words: of the command."""
        least, most = min(self.answers(rule)), max(self.answers(rule))
        if self.spread(rule) > MOST_SPREAD:
            raise UserError(
                f"{words}: the sweeps answer {least:.1e} to {most:.1e}, a spread of {most / least:.3g}; "
                f"at most {MOST_SPREAD} can be trusted, and lr_range.png shows the curves\n"
                "  use callbacks.lr_range.smoothing=0.98 callbacks.lr_range.steps=400, a larger data.batch_size, "
                "or optim.lr=<rate> without lr_range"
            )

    @property
    def warnings(self) -> list[str]:
        """Why the answer may be wrong: in most sweeps the lowest loss lies at an end of the range."""
        ends = sum(not sweep.diverged and sweep.lowest >= len(sweep.lrs) - 2 for sweep in self.sweeps)
        starts = sum(sweep.lowest <= len(sweep.lrs) // 20 for sweep in self.sweeps)
        lrs, warnings = self.sweeps[0].lrs, []
        if 2 * ends > len(self.sweeps):
            warnings.append(f"the loss still falls at {lrs[-1]:g}: use a larger callbacks.lr_range.max_lr")
        if 2 * starts > len(self.sweeps):
            warnings.append(f"the loss is lowest at {lrs[0]:g}: use a smaller callbacks.lr_range.min_lr")
        return warnings


def smoothed_losses(losses: list[float], smoothing: float) -> list[float]:
    """Exponential averages, each divided by the sum of its weights so far, as Adam corrects the bias of its moments."""
    total, weight, smoothed = 0.0, 0.0, []
    for loss in losses:
        total = smoothing * total + (1 - smoothing) * loss
        weight = smoothing * weight + (1 - smoothing)
        smoothed.append(total / weight)
    return smoothed


def ladder(min_lr: float, max_lr: float, steps: int) -> list[float]:
    """Learning rates from min_lr to max_lr, each the same multiple of the one before."""
    return [min_lr * (max_lr / min_lr) ** (step / (steps - 1)) for step in range(steps)]


def range_test(trainer: L.Trainer, task: Task, lrs: list[float], sweeps: int, smoothing: float) -> RangeTest:
    """Sweep over these learning rates of the first parameter group.

    The first sweep starts from the weights that the task has, each other from those of another seed, unless the task
    has no `fresh_network`, as with given weights; then only the order of the images differs.
    Called where training would begin (on_train_start). Raises UserError where the optimizer's own learning rate is 0,
    and FloatingPointError where the loss is not finite before any step.
    """
    loader = trainer.datamodule.train_dataloader()
    results = []
    with isolate_rng():
        for number in range(sweeps):
            batches = endless_batches(replace(loader, seed=mix(loader.seed, SWEEPS, number)))
            with restored(task):
                if number and task.fresh_network:
                    torch.manual_seed(mix(task.seed, SWEEPS, number))
                    task.network.load_state_dict(task.fresh_network().state_dict())
                results.append(run_sweep(SweepStep(trainer, task), batches, lrs, smoothing, number))
    return RangeTest(results)


def endless_batches(loader: TrainBatches) -> Iterator[Batch]:
    """The batches of one epoch after the other, from epoch 0 on."""
    for epoch in itertools.count():
        yield from replace(loader, position=lambda epoch=epoch: (epoch, 0))


@contextlib.contextmanager
def restored(task: Task) -> Iterator[None]:
    """In train mode within; afterwards parameters, buffers and modes are what they were, and there are no gradients."""
    tensors = [*task.parameters(), *task.buffers()]
    copies = [tensor.detach().clone() for tensor in tensors]
    modes = {module: module.training for module in task.modules()}
    task.train()
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, copy in zip(tensors, copies, strict=True):
                tensor.copy_(copy)
        task.zero_grad()
        for module, mode in modes.items():
            module.training = mode


def run_sweep(
    step: "SweepStep", batches: Iterator[Batch], lrs: list[float], smoothing: float, number: int
) -> RangeSweep:
    """A step at each rate, until the loss is not finite or the smoothed loss is far above its best."""
    task = step.task
    losses: list[float] = []
    for lr in lrs:
        seed_step(task.device, task.seed, SWEEPS, task.global_rank, number, len(losses))
        loss = step(batches, lr)
        if not math.isfinite(loss):
            break
        losses.append(loss)
        smoothed = smoothed_losses(losses, smoothing)
        if smoothed[-1] > DIVERGED * min(smoothed):
            break
    if not losses:
        raise NonFiniteError(
            "the loss is not finite before any step is made: there is no learning rate to look for\n"
            "  python train.py debug=anomaly names the operation"
        )
    return RangeSweep(lrs[: len(losses)], losses, smoothing, diverged=len(losses) < len(lrs))


class SweepStep:
    """One optimizer step as the trainer makes it: with its precision, accumulation, clipping and devices."""

    def __init__(self, trainer: L.Trainer, task: Task) -> None:
        self.trainer = trainer
        self.task = task
        self.precision = trainer.precision_plugin
        self.optimizer = task.fresh_optimizer()
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        if self.rates[0] <= 0:
            raise UserError(f"optim.lr={self.rates[0]:g}: a range test keeps the ratios of groups; use a rate above 0")
        is_float16 = getattr(self.precision, "scaler", None) is not None
        self.scaler = torch.amp.GradScaler(task.device.type, enabled=is_float16)

    def __call__(self, batches: Iterator[Batch], lr: float) -> float:
        """Step with this rate of the first group; gives the mean loss of all devices before the step."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = lr * rate / self.rates[0]
        number = self.trainer.accumulate_grad_batches
        losses = [self._backward(next(batches)) / number for _ in range(number)]
        if not math.isfinite(sum(losses)):
            return math.nan
        self.scaler.unscale_(self.optimizer)
        if self.trainer.world_size > 1:
            for parameter in self.task.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= self.trainer.world_size
        trainer = self.trainer
        self.task.configure_gradient_clipping(
            self.optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm
        )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return sum(losses)

    def _backward(self, batch: Batch) -> float:
        """Add the gradients of a batch; gives its mean loss over all devices."""
        inputs, targets = self.trainer.datamodule.transfer_batch_to_device(batch, self.task.device, 0)
        with self.precision.forward_context():
            loss, _ = self.task.training_loss(inputs, self.task.targets_of(inputs, targets))
        self.scaler.scale(loss / self.trainer.accumulate_grad_batches).backward()
        return self.trainer.strategy.reduce(loss.detach(), reduce_op="mean").item()
