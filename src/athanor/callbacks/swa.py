"""Stochastic weight averaging: the mean of the weights along the end of a run."""

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import lightning.pytorch as L
import torch
from torch import Tensor

from athanor.callbacks.averages import Average
from athanor.models import batch_norm


class SWA(Average):
    """The plain mean of the weights from `start` of the run on (Izmailov et al. 2018, algorithm 1).

    The schedule stays as it is; the paper's is constant, or cyclic, from there on.

    start: fraction of the run. every: optimizer steps from one of the averaged weights to the next; null: those at the
    end of each epoch. The run's last weights always count.
    """

    def __init__(self, start: float, every: int | None) -> None:
        super().__init__()
        if not 0 <= start < 1:
            raise ValueError(f"callbacks.swa.start={start:g} is no fraction of the run; use 0 to below 1")
        if every is not None and every < 1:
            raise ValueError(
                f"callbacks.swa.every={every}: use 1 or more optimizer steps, or null for each epoch's end"
            )
        self.start, self.every = start, every
        self.stale = False  # the statistics of batch norm in the average

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.steps = pl_module.run_length.steps
        if math.isinf(self.steps):
            raise ValueError("callbacks.swa.start is a fraction of a run without end; set trainer.max_epochs")
        if trainer.global_step < self.start * self.steps:
            self.count = 0  # a run that has been made longer averages its own end
        super().on_train_start(trainer, pl_module)

    def share(self, trainer: L.Trainer, step: int) -> float | None:
        is_due = trainer.is_last_batch if self.every is None else step % self.every == 0
        if step < self.start * self.steps or not (is_due or step == self.steps):
            return None
        self.stale = True
        return 1 / (self.count + 1)

    @torch.no_grad()
    def settle(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Estimate the statistics of batch norm for the averaged weights; their own averages belong to no network.

        In a copy, of float32 or more. It sees the batches of the first epoch whenever it is done, so that a run which
        is resumed finds the same.
        """
        if not self.stale:
            return
        self.stale = False
        network = copy.deepcopy(pl_module.network).to(torch.promote_types(pl_module.dtype, torch.float32))
        averaged = {name.removeprefix("network."): tensor for name, tensor in self.named(pl_module).items()}
        network.load_state_dict(averaged, strict=False)
        with batch_norm.new_statistics(network) as norms:
            for batch in pixels(trainer, pl_module) if norms else ():
                network(batch)
        for norm in norms.values():
            for statistic in norm.running_mean, norm.running_var:
                statistic.copy_(trainer.strategy.reduce(statistic, reduce_op="mean"))
        for name, norm in norms.items():
            for key, buffer in norm.named_buffers():
                self.average[f"network.{name}.{key}"].copy_(buffer)


def pixels(trainer: L.Trainer, pl_module: L.LightningModule) -> Iterator[Tensor]:
    """The first epoch's training batches, preprocessed; they draw from generators of their own."""
    data, dtype = trainer.datamodule, torch.promote_types(pl_module.dtype, torch.float32)
    loader = replace(data.train_dataloader(), position=lambda: (0, 0))
    for batch in islice(loader, trainer.num_training_batches):
        images, _ = data.transfer_batch_to_device(batch, pl_module.device, 0)
        yield pl_module.preprocess(images).to(dtype)
