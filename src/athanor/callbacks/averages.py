"""Averages of a run's weights: what EMA and SWA have in common."""

import lightning.pytorch as L
import torch
import torch.distributed as dist
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from athanor.tasks.classification import at_least_float32


class Average(L.Callback):
    """Keeps an average of the network's weights, which is validated, saved and, after the fit, tested in their place.

    Float buffers are averaged as the weights are, integer ones copied. `val/loss` and `val/acc` are of the average, so
    early stopping, checkpoints and plateau follow it; the raw weights' stand beside, as `val/loss_raw`, `val/acc_raw`.
    A checkpoint's `state_dict` is the average, and its `raw` the weights that training goes on with when it is
    resumed. Until the first update all of these are of the raw weights.
    """

    def __init__(self) -> None:
        self.count = 0  # updates that the average has seen
        self.average: dict[str, Tensor] = {}
        self.raw: dict[str, Tensor] = {}  # while the average is in the network
        self.resumed: dict[str, Tensor] = {}  # the average of a checkpoint

    def share(self, trainer: L.Trainer, step: int) -> float | None:
        """Of the weights in the average after this optimizer step, counted from 1; None: no update now."""
        raise NotImplementedError

    def settle(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make the average ready for use; it is about to be validated or saved."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if sum(isinstance(callback, Average) for callback in trainer.callbacks) > 1:
            raise ValueError("callbacks: ema and swa each save their own average as the run's weights; use one of them")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.step = trainer.global_step
        self.own = unique_tensors(pl_module)
        for name, tensor in self.own.items():
            # bfloat16, which has three digits, would not notice an update of 1 in 1000
            wide = at_least_float32(tensor) if tensor.is_floating_point() else tensor
            self.average[name] = wide.detach().clone()
            if name in self.resumed:
                self.average[name].copy_(self.resumed[name])
        self.resumed = {}
        pairs = [(self.average[name], tensor) for name, tensor in self.own.items()]
        self.floats = [(average, own) for average, own in pairs if own.is_floating_point()]
        self.others = [(average, own) for average, own in pairs if not own.is_floating_point()]

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx) -> None:
        step = trainer.global_step
        if step == self.step:  # gradients are being summed
            return
        self.step = step
        share = self.share(trainer, step)
        if share is not None:
            self._update(share)
            self.count += 1

    @torch.no_grad()
    def _update(self, share: float) -> None:
        """average += share * (weights - average), all tensors at once."""
        weights = [own.to(average.dtype) for average, own in self.floats]
        torch._foreach_lerp_([average for average, _ in self.floats], weights, share)
        if self.others:
            torch._foreach_copy_(*zip(*self.others, strict=True))

    # validation

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.count or trainer.state.fn != TrainerFn.FITTING:
            return
        self.settle(trainer, pl_module)
        for buffer in self._buffers() if trainer.world_size > 1 else ():  # batch norm's differ; a file has the first's
            dist.broadcast(buffer, src=0)
        self.raw = {name: tensor.detach().clone() for name, tensor in self.own.items()}
        self._fill(self.average)
        self.sums = torch.zeros(3, device=pl_module.device)  # losses, correct, images: of the raw weights

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx, dataloader_idx=0
    ) -> None:
        if not self.raw:
            return
        images, labels = batch
        self._fill(self.raw)
        with trainer.precision_plugin.forward_context():
            logits = at_least_float32(pl_module(images))
            loss = pl_module.loss(logits, labels)
        self._fill(self.average)
        correct = (logits.argmax(1) == labels).sum()
        self.sums += torch.stack([loss * len(labels), correct, torch.full_like(correct, len(labels))])

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.raw:
            return
        loss, correct, images = trainer.strategy.reduce(self.sums, reduce_op="sum").tolist()
        pl_module.log_dict({"val/loss_raw": loss / images, "val/acc_raw": correct / images})

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.raw:
            self._fill(self.raw)
            self.raw = {}

    def _buffers(self) -> list[Tensor]:
        names = [name for name, tensor in self.own.items() if not isinstance(tensor, nn.Parameter)]
        return [tensors[name] for tensors in (self.own, self.average) for name in names]

    @torch.no_grad()
    def _fill(self, tensors: dict[str, Tensor]) -> None:
        torch._foreach_copy_(list(self.own.values()), [tensors[name] for name in self.own])

    # what is kept

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Without a checkpoint it is tested as it is in memory."""
        if self.count:
            self.settle(trainer, pl_module)
            self._fill(self.average)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict) -> None:
        if not self.count:
            return
        self.settle(trainer, pl_module)
        averaged = self.named(pl_module)
        checkpoint["raw"] = {name: checkpoint["state_dict"][name] for name in averaged}
        checkpoint["state_dict"].update(averaged)

    def named(self, pl_module: L.LightningModule) -> dict[str, Tensor]:
        """The average under all names of a state_dict; weights that are tied have several."""
        names = {id(tensor): name for name, tensor in self.own.items()}
        return {name: self.average[names[id(tensor)]] for name, tensor in saved_tensors(pl_module).items()}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict) -> None:
        if trainer.state.fn == TrainerFn.FITTING and "raw" in checkpoint:
            self.resumed = {name: checkpoint["state_dict"][name] for name in unique_tensors(pl_module)}
            pl_module.load_state_dict(checkpoint["raw"], strict=False)

    def state_dict(self) -> dict:
        return {"count": self.count}

    def load_state_dict(self, state: dict) -> None:
        self.count = state["count"]


def saved_tensors(pl_module: L.LightningModule) -> dict[str, Tensor]:
    """Parameters and buffers of the network that a checkpoint holds, themselves. The preprocessing never changes."""
    state = pl_module.network.state_dict(prefix="network.", keep_vars=True)
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


def unique_tensors(pl_module: L.LightningModule) -> dict[str, Tensor]:
    """The same, each once."""
    first = {}
    for name, tensor in saved_tensors(pl_module).items():
        first.setdefault(id(tensor), (name, tensor))
    return dict(first.values())
