"""What is checked: a LightningModule at its first step, with its data, its loss and its optimizers."""

import copy
import inspect
import math
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from athanor.craft.checks.finding import DoesNotApplyError
from athanor.data.module import ArrayData
from athanor.data.seeds import seed_all
from athanor.data.streamed import Items, at_distances
from athanor.tasks.task import Task

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
BATCHES = 8  # of training that are read, at most
EXAMPLES = 64  # of a batch that is trained on, at most, so that a check of a large network ends
SAMPLED = 2000  # inputs of a stage that are read where they are not in memory
BYTES = 2**29  # of inputs of a stage that are read where they are, as those of a memory-mapped array
Pair = tuple[Tensor, Tensor]


class Subject:
    """A module that is set up by a trainer and has made no step. `module` itself is to be left as it is.

    trainer: its `train_dataloader` gives the batches, its strategy moves them to the device.
    folder: for pictures; None where nobody wants one.
    """

    def __init__(self, module: L.LightningModule, trainer: L.Trainer, folder: Path | None) -> None:
        self.module = module
        self.trainer = trainer
        self.folder = folder
        self.data = trainer.datamodule
        self.optimizers = trainer.optimizers
        self.device = module.device
        self.stale_gradients = False  # whether gradients of one step were there at the next

    # data

    @cached_property
    def raw_batches(self) -> list[Any]:
        """The first training batches as the loader gives them."""
        batches = list(islice(iter(self.trainer.train_dataloader), BATCHES))
        if not batches:
            raise DoesNotApplyError("the training loader gives no batch")
        return batches

    @cached_property
    def batch(self) -> Any:
        """The first training batch, as `small` gives it."""
        return self.small(self.raw_batches[0])

    def small(self, batch: Any) -> Any:
        """A batch on the device, with at most EXAMPLES inputs where it is a pair."""
        batch = self.trainer.strategy.batch_to_device(batch)
        if is_pair(batch) and len(batch[0]) == len(batch[1]):
            return tuple(part[:EXAMPLES] for part in batch)
        return batch

    @property
    def pair(self) -> Pair:
        """Inputs and targets of `batch`. Raises DoesNotApplyError where it is no pair of tensors."""
        return require_pair(self.batch)

    @property
    def targets(self) -> Tensor:
        """What the outputs for `batch` are compared with."""
        return self.targets_of(self.pair)

    def targets_of(self, pair: Pair) -> Tensor:
        return self.module.targets_of(*pair) if isinstance(self.module, Task) else pair[1]

    @property
    def views(self) -> int:
        return getattr(self.module, "views", 1)

    @property
    def labels(self) -> Tensor:
        """The class indices of `batch`. Raises DoesNotApplyError where its targets are none."""
        if (targets := self.targets).dtype != torch.int64 or targets.ndim != 1:
            raise DoesNotApplyError("the targets are no class indices")
        return targets

    def examples(self, stage: Literal["train", "val", "test"], most: int | None = None) -> Pair | None:
        """Inputs and targets of a stage, before the augmentation of ours: all, or at equal distances as many as `most`,
        SAMPLED of a stream or a loader, or BYTES allow. None where there are none.
        """
        sampled = min(most or SAMPLED, SAMPLED)
        if isinstance(self.data, ArrayData):
            inputs, targets, index = self.data.part(stage)
            if not len(index):
                return None
            size = math.prod(inputs.shape[1:]) * inputs.dtype.itemsize
            most = min(sampled if isinstance(inputs, Items) else most or len(index), max(BYTES // size, 1))
            index = at_distances(index, most)
            return inputs[index], targets[index]
        batches, count = [], 0
        for batch in (self.trainer.train_dataloader if stage == "train" else self.loader(stage)) or ():
            batches.append(require_pair(batch))
            count += len(batch[0])
            if count >= sampled:
                break
        return tuple(map(torch.cat, zip(*batches, strict=True))) if batches else None

    def loader(self, stage: Literal["val", "test"]) -> Any:
        """The loader of a stage, or None."""
        if isinstance(self.data, ArrayData) and not len(self.data.part(stage).index):
            return None
        try:
            return getattr(self.data, f"{stage}_dataloader")()
        except Exception:  # of a data module without that stage, or that is not set up for it
            return None

    # the module

    def copy(self) -> L.LightningModule:
        """A copy of the module as it was before any step, in train mode as training would have it."""
        module = copy.deepcopy(self.module)
        module.trainer = self.trainer
        module.log = module.log_dict = lambda *args, **kwargs: None
        return module

    def single_optimizer(self) -> L.LightningModule:
        """A copy. Raises DoesNotApplyError where its steps are not those of one optimizer that Lightning makes."""
        if not self.module.automatic_optimization or len(self.optimizers) != 1:
            raise DoesNotApplyError("the module has no optimizer, several ones, or optimizes by hand")
        return self.copy()

    def outputs(self, module: L.LightningModule, inputs: Tensor) -> Tensor:
        """What the module answers, [N, ...]. Raises DoesNotApplyError where its `forward` takes something else."""
        try:
            answer = module(inputs)
        except Exception as error:
            raise DoesNotApplyError(f"forward(inputs) ends with {type(error).__name__}") from error
        if not isinstance(answer, Tensor):
            raise DoesNotApplyError(f"forward(inputs) gives a {type(answer).__name__} and no tensor")
        return answer

    def loss(self, module: L.LightningModule, batch: Any, step: int = 0) -> Tensor:
        """The loss of training_step, a scalar; random numbers are a function of `step`."""
        self.seed_anew(step)
        backward: list[Tensor] = []
        if not module.automatic_optimization:  # which makes its steps by itself, with optimizers of this copy
            optimizers = self.optimizers_of(module)
            module.optimizers = lambda *_, **__: optimizers if len(optimizers) > 1 else optimizers[0]
            module.lr_schedulers = lambda: None
            module.toggle_optimizer = module.untoggle_optimizer = lambda *_, **__: None
            module.manual_backward = lambda loss, *_, **__: self._backward(module, loss, backward)
        takes_index = len(inspect.signature(module.training_step).parameters) > 1
        # always as the first batch: the last ones of an epoch have another share in an accumulated step
        answer = module.training_step(batch, 0) if takes_index else module.training_step(batch)
        answer = answer["loss"] if isinstance(answer, dict) else answer
        if answer is None and backward:
            answer = backward[0]
        if answer is None:
            raise DoesNotApplyError("training_step gives no loss for this batch")
        return answer

    def _backward(self, module: nn.Module, loss: Tensor, losses: list[Tensor]) -> None:
        self.stale_gradients |= not losses and has_gradients(module)
        losses.append(loss.detach())
        loss.backward()

    def optimizers_of(self, module: L.LightningModule) -> list[Optimizer]:
        """Optimizers of a copy, with the learning rates that they have before any schedule."""
        if hasattr(module, "_checked_optimizers"):
            return module._checked_optimizers
        made = module.configure_optimizers()
        made = made[0] if isinstance(made, tuple) and isinstance(made[0], (list, tuple)) else made
        made = made if isinstance(made, (list, tuple)) else [made]
        module._checked_optimizers = [each["optimizer"] if isinstance(each, dict) else each for each in made if each]
        for optimizer in module._checked_optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group.get("initial_lr", group["lr"])
        return module._checked_optimizers

    def step(self, module: L.LightningModule, batch: Any, number: int, optimizer: Optimizer | None = None) -> float:
        """One optimizer step on a copy, with clipping as configured; gives the loss before it."""
        if not module.automatic_optimization:
            return self.loss(module, batch, number).item()
        optimizer = optimizer or self.optimizers_of(module)[0]
        losses: list[float] = []

        def closure() -> Tensor:
            loss = self.loss(module, batch, number)
            module.optimizer_zero_grad(0, number, optimizer)
            self.stale_gradients |= has_gradients(module)
            loss.backward()
            module.on_before_optimizer_step(optimizer)
            if clip := self.trainer.gradient_clip_val:
                module.configure_gradient_clipping(optimizer, clip, self.trainer.gradient_clip_algorithm)
            losses.append(loss.item())
            return loss

        optimizer.step(closure)
        return losses[0]

    def trained(self, module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters that training changes from the first epoch on."""
        parts = getattr(module, "frozen_parts", []) if getattr(module, "is_frozen", False) else []
        frozen = {id(parameter) for part in parts for parameter in part.parameters()}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and id(parameter) not in frozen:
                yield name, parameter

    def seed_anew(self, *numbers: int) -> None:
        seed_all(self.device, getattr(self.module, "seed", 0), *numbers)


def is_pair(batch: Any) -> bool:
    return isinstance(batch, (tuple, list)) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)


def require_pair(batch: Any) -> Pair:
    if not is_pair(batch):
        raise DoesNotApplyError("batches are no pairs of inputs and targets")
    return batch


def has_gradients(module: nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())
