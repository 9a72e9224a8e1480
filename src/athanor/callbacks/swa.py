"""Stochastic weight averaging: the mean of the weights along the end of a run."""

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import lightning.pytorch as L
import torch
from torch import Tensor

from athanor.base.errors import UserError, require
from athanor.callbacks.weight_average import WeightAverage
from athanor.models import batch_norm


class SWA(WeightAverage):
    """The unweighted mean of the weights from `start` of the run on (Izmailov et al. 2018, algorithm 1).

    The learning rate follows the run's own schedule. In the paper it is constant or cyclic while weights are averaged.

    start: fraction of the run's optimizer steps, in [0, 1). every: optimizer steps between the weights that are
    averaged, 1 or more; None: the weights at the end of each epoch. The last weights of the run always count.
    Raises UserError for a value outside these ranges, and for a run without a known number of steps.
    """

    def __init__(self, start: float, every: int | None) -> None:
        super().__init__()
        require(0 <= start < 1, f"callbacks.swa.start={start:g} is no fraction of the run; use 0 to below 1")
        if every is not None and every < 1:
            raise UserError(
                f"callbacks.swa.every={every}: use 1 or more optimizer steps, or null for the ends of epochs"
            )
        self.start = start
        self.every = every
        self.is_stale = False  # whether the batch norm statistics in the average belong to other weights

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.steps = pl_module.run_length.steps
        if math.isinf(self.steps):
            raise UserError("callbacks.swa.start is a fraction of a run without end; set trainer.max_epochs")
        if trainer.global_step < self.start * self.steps:
            self.count = 0  # resumed with more steps than before: the average begins later
        super().on_train_start(trainer, pl_module)

    def share(self, trainer: L.Trainer, step: int) -> float | None:
        is_due = trainer.is_last_batch if self.every is None else step % self.every == 0
        if step < self.start * self.steps or not (is_due or step == self.steps):
            return None
        self.is_stale = True
        return 1 / (self.count + 1)

    @torch.no_grad()
    def prepare(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Estimate the batch norm statistics of the averaged weights anew: a mean of statistics belongs to no network.

        In a copy of the network, in float32 or float64. It sees the training batches of the first epoch, whenever this
        is called, so that a resumed run gets the same statistics.
        """
        if not self.is_stale:
            return
        self.is_stale = False
        network = copy.deepcopy(pl_module.network).to(torch.promote_types(pl_module.dtype, torch.float32))
        averages = {
            name.removeprefix("network."): tensor
            for name, tensor in self.saved_average(pl_module).items()
            if name.startswith("network.")  # not of other parts that are trained
        }
        network.load_state_dict(averages, strict=False)
        with batch_norm.new_statistics(network) as norms:
            for batch in pixels(trainer, pl_module) if norms else ():
                network(batch)
        for name, norm in norms.items():
            for statistic in norm.running_mean, norm.running_var:
                statistic.copy_(trainer.strategy.reduce(statistic, reduce_op="mean"))
            for key, buffer in norm.named_buffers():
                self.average[f"network.{name}.{key}"].copy_(buffer)


def pixels(trainer: L.Trainer, pl_module: L.LightningModule) -> Iterator[Tensor]:
    """The training batches of the first epoch, preprocessed. Their random numbers come from generators of their own."""
    data, dtype = trainer.datamodule, torch.promote_types(pl_module.dtype, torch.float32)
    loader = replace(data.train_dataloader(), position=lambda: (0, 0))
    for batch in islice(loader, trainer.num_training_batches):
        images, _ = data.transfer_batch_to_device(batch, pl_module.device, 0)
        yield pl_module.preprocess(images).to(dtype)
