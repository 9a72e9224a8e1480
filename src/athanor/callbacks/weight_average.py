"""Averages of the network's weights along a run: the base class of EMA and SWA."""

import lightning.pytorch as L
import torch
import torch.distributed as dist
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from athanor.base.errors import UserError
from athanor.base.lightning_internals import copy_each, lerp_each
from athanor.tasks.losses import at_least_float32
from athanor.tasks.task import require_task


class WeightAverage(L.Callback):
    """Keeps an average of the network's weights, which is validated, saved and, after the fit, tested in their place.

    Floating-point buffers are averaged like weights, integer ones are copied. The metrics of validation, as
    `val/loss`, belong to the average, so early stopping, checkpoints and ReduceLROnPlateau follow it; those of the raw
    weights are logged as `val/loss_raw` and so on. In a checkpoint, `state_dict` is the average, and `raw` the weights
    with which a resumed run goes on training. Until the first update all of these belong to the raw weights.
    """

    def __init__(self) -> None:
        self.count = 0  # updates of the average so far
        self.weights: dict[str, Tensor] = {}  # parameters and buffers of the network itself
        self.average: dict[str, Tensor] = {}  # of the same names
        self.raw: dict[str, Tensor] = {}  # copy of the weights, while the network holds the average
        self.resumed: dict[str, Tensor] = {}  # the average in the checkpoint of a resumed run

    def share(self, trainer: L.Trainer, step: int) -> float | None:
        """The share, in (0, 1], of the present weights in the average after this optimizer step, counted from 1.

        None: the average is not updated at this step.
        """
        raise NotImplementedError

    def prepare(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Called before the average is validated, saved or tested."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        require_task(pl_module, f"callbacks={type(self).__name__.lower()}")
        if sum(isinstance(callback, WeightAverage) for callback in trainer.callbacks) > 1:
            raise UserError("callbacks: ema and swa each save their own average as the run's weights; use one of them")

    # training

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.step = trainer.global_step
        self.weights = unique_tensors(pl_module)
        for name, tensor in self.weights.items():
            # an average in bfloat16, which has three digits, would not change by an update of 1 in 1000
            wide = at_least_float32(tensor) if tensor.is_floating_point() else tensor
            self.average[name] = wide.detach().clone()
            if name in self.resumed:
                self.average[name].copy_(self.resumed[name])
        self.resumed = {}
        pairs = [(self.average[name], tensor) for name, tensor in self.weights.items()]
        self.averaged_pairs = [pair for pair in pairs if pair[0].is_floating_point()]
        self.copied_pairs = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx) -> None:
        step = trainer.global_step
        if step == self.step:  # gradients are being accumulated
            return
        self.step = step
        share = self.share(trainer, step)
        if share is None:
            return
        weights = [tensor.to(average.dtype) for average, tensor in self.averaged_pairs]
        lerp_each([average for average, _ in self.averaged_pairs], weights, share)
        if self.copied_pairs:
            copy_each(*zip(*self.copied_pairs, strict=True))
        self.count += 1

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the average in the network: without a checkpoint, that is what is tested."""
        if self.count:
            self.prepare(trainer, pl_module)
            self._fill_network(self.average)

    # validation: Lightning validates the average, and each batch is evaluated once more with the raw weights

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.count or trainer.state.fn != TrainerFn.FITTING:
            return
        self.prepare(trainer, pl_module)
        if trainer.world_size > 1:  # each process has its own batch norm statistics; a checkpoint has the first's
            buffers = [name for name, tensor in self.weights.items() if not isinstance(tensor, nn.Parameter)]
            for buffer in [tensors[name] for tensors in (self.weights, self.average) for name in buffers]:
                dist.broadcast(buffer, src=0)
        self.raw = {name: tensor.detach().clone() for name, tensor in self.weights.items()}
        self._fill_network(self.average)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx, dataloader_idx=0
    ) -> None:
        if not self.raw:
            return
        self._fill_network(self.raw)
        with trainer.precision_plugin.forward_context():
            pl_module.evaluate("val_raw", *batch)
        self._fill_network(self.average)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.raw:
            values = pl_module.values_of("val_raw")
            pl_module.log_dict({f"val/{name}_raw": value for name, value in values.items()})

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.raw:
            self._fill_network(self.raw)
            self.raw = {}

    @torch.no_grad()
    def _fill_network(self, tensors: dict[str, Tensor]) -> None:
        copy_each(list(self.weights.values()), [tensors[name] for name in self.weights])

    # checkpoints

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict) -> None:
        if not self.count:
            return
        self.prepare(trainer, pl_module)
        averages = self.saved_average(pl_module)
        checkpoint["raw"] = {name: checkpoint["state_dict"][name] for name in averages}
        checkpoint["state_dict"].update(averages)

    def saved_average(self, pl_module: L.LightningModule) -> dict[str, Tensor]:
        """The average under all names of a state_dict, in which tied weights have several."""
        names = {id(tensor): name for name, tensor in self.weights.items()}
        return {name: self.average[names[id(tensor)]] for name, tensor in saved_tensors(pl_module).items()}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict) -> None:
        if trainer.state.fn == TrainerFn.FITTING and "raw" in checkpoint:
            self.resumed = {name: checkpoint["state_dict"][name] for name in unique_tensors(pl_module)}
            pl_module.load_state_dict(checkpoint["raw"], strict=False)

    def state_dict(self) -> dict:
        return {"count": self.count}

    def load_state_dict(self, state: dict) -> None:
        self.count = state["count"]


def averaged_updates(trainer: L.Trainer) -> int | None:
    """How many updates the average has that is validated and saved now; 0: it is the raw weights; None: no callback."""
    return next((callback.count for callback in trainer.callbacks if isinstance(callback, WeightAverage)), None)


def saved_tensors(pl_module: L.LightningModule) -> dict[str, Tensor]:
    """Parameters and buffers that a checkpoint holds of the parts of a task that are trained.

    Those of the network, and of other parts that have parameters which require gradients; the preprocessing, which
    never changes, has none. The tensors themselves, not copies.
    """
    state = {}
    for name, part in pl_module.named_children():
        if name == "network" or any(parameter.requires_grad for parameter in part.parameters()):
            part.state_dict(destination=state, prefix=f"{name}.", keep_vars=True)
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


def unique_tensors(pl_module: L.LightningModule) -> dict[str, Tensor]:
    """The same, but tied weights only under the first of their names."""
    named = {}
    for name, tensor in saved_tensors(pl_module).items():
        named.setdefault(id(tensor), (name, tensor))
    return dict(named.values())
