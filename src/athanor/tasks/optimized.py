"""How the network of a task is optimized: optimizer, schedules and clipping of gradients."""

import logging
import math
from functools import partial

import lightning.pytorch as L
import torch
from lightning.pytorch.plugins import Precision
from torch import nn

from athanor.base.errors import UserError
from athanor.base.lightning_internals import CheapHookName, is_last_batch_of_epoch
from athanor.models import batch_norm
from athanor.optim import schedulers, schedules
from athanor.optim.groups import OwnGroups, parameter_groups
from athanor.optim.scaling import LRScaling
from athanor.tasks.frozen import Frozen

log = logging.getLogger(__name__)

NO_GROUPS, NOT_FROZEN = OwnGroups(), Frozen()
CONSTANT, UNSCALED = schedules.Schedule(partial(schedules.constant)), LRScaling()


class Optimized(CheapHookName, L.LightningModule):
    """A LightningModule whose `network` is trained by one optimizer, with the schedules and scaling of `optim`.

    So are its other parameters that require gradients, which come after those of the network. The arguments are those
    of Task.
    """

    validated = False  # since the epoch schedulers last moved
    decays = False  # the checkpoint's optimizer decayed weights, by control.yaml if not from its first step

    def __init__(
        self,
        network: nn.Module,
        optimizer: partial | None,
        schedule: schedules.Schedule,
        lr_scaling: LRScaling,
        monitor: str,
        groups: OwnGroups = NO_GROUPS,
        frozen: Frozen = NOT_FROZEN,
    ) -> None:
        super().__init__()
        self.network = network
        self.groups = groups
        self.freeze_epochs = frozen.freeze_epochs
        self.frozen_parts = frozen.parts(network) if frozen.freeze else []  # a list, so that they are no modules twice
        if self.freeze_epochs is None:
            for part in self.frozen_parts:
                part.requires_grad_(False)
        self.make_optimizer = optimizer
        self.is_lbfgs = optimizer is not None and issubclass(optimizer.func, torch.optim.LBFGS)
        self.schedule = schedule
        self.lr_scaling = lr_scaling
        self.monitor = monitor

    def fresh_optimizer(self) -> torch.optim.Optimizer:
        """A new optimizer, with the learning rates that the run has before any schedule."""
        decays = self.make_optimizer.keywords.get("weight_decay") != 0 or self.decays
        make_groups = getattr(self.make_optimizer.func, "groups", None)  # Muon tells parameters apart by their layers
        if self.groups:
            groups = self._own_groups()
        elif make_groups:
            groups = make_groups(self)
        else:
            groups = parameter_groups(self, decays and not self.is_lbfgs)
        # torch's fused SGD fails where parameters with a momentum are joined by others, which thaw and have none yet
        thaws = self.freeze_epochs is not None and issubclass(self.make_optimizer.func, torch.optim.SGD)
        optimizer = self.make_optimizer(groups, **{"fused": None} if thaws else {})
        for group in optimizer.param_groups:
            group["lr"] *= self.lr_scaling.factor(self.global_batch)
        return optimizer

    def _own_groups(self) -> list[dict]:
        kind = self.make_optimizer.func
        if self.is_lbfgs or hasattr(kind, "groups"):
            raise UserError(f"optim.lr_by_layer and optim.groups: {kind.__name__} makes its own groups; use another")
        defaults = kind([nn.Parameter(torch.zeros(1))], **self.make_optimizer.keywords).defaults
        named = [(name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad]
        return self.groups.of(named, defaults)

    # parts that are not trained

    @property
    def is_frozen(self) -> bool:
        """Whether there are parts that are not trained in this epoch."""
        return bool(self.frozen_parts) and (self.freeze_epochs is None or self.current_epoch < self.freeze_epochs)

    def train(self, mode: bool = True) -> "Optimized":
        super().train(mode)
        if mode and self.is_frozen:
            for part in self.frozen_parts:
                part.eval()
        return self

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.freeze_epochs is not None and self.is_frozen:  # those that stay frozen have no gradients
            for part in self.frozen_parts:
                part.zero_grad()

    @property
    def global_batch(self) -> int:
        """Images in one optimizer step, over all devices and accumulated batches."""
        return self.trainer.datamodule.batch_size * self.trainer.accumulate_grad_batches

    @property
    def run_length(self) -> schedules.RunLength:
        """Optimizer steps of the run and of an epoch; known once the trainer has set up its data."""
        per_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        return schedules.RunLength(self.trainer.estimated_stepping_batches, per_epoch)

    def configure_optimizers(self):
        optimizer = self.fresh_optimizer()
        clip, plugin = self.trainer.gradient_clip_val, self.trainer.precision_plugin
        if clip and getattr(plugin, "scaler", None) is not None and optimizer.defaults.get("fused"):
            raise UserError(
                f"trainer.gradient_clip_val={clip}: with 16-mixed a fused optimizer unscales gradients in its step, "
                "after they would be clipped\n  use optim.fused=false, or trainer.precision=bf16-mixed"
            )
        lr = optimizer.param_groups[0]["lr"] / self.lr_scaling.factor(self.global_batch)
        if scaling := self.lr_scaling.notice(lr, self.global_batch):
            log.info(scaling)
        if self.is_lbfgs:
            optimizer.register_step_post_hook(lambda *_: self._renew_statistics())
        self.trainer.fit_loop.setup_data()  # without max_epochs, Lightning does not know the number of batches yet
        configs = []
        is_trial = bool(self.trainer.fast_dev_run)
        for scheduler, interval in self.schedule.schedulers(optimizer, self.run_length, is_trial):
            configs.append({"scheduler": scheduler, "interval": interval})
            if interval == "epoch":
                # moved by step_epoch_schedulers instead: Lightning moves it after it has written the epoch's
                # checkpoint, and a resumed run would miss that move
                configs[-1] |= {"frequency": 2**62, "monitor": self.monitor}
        return [optimizer], configs

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        # Lightning's mixed precision refuses to clip for fused optimizers, because of float16's scaler, also where
        # there is none; the clipping of its base class is the same without the refusal
        plugin = self.trainer.precision_plugin
        Precision.clip_gradients(plugin, optimizer, gradient_clip_val or 0.0, gradient_clip_algorithm or "norm")

    @torch.no_grad()
    def _renew_statistics(self) -> None:
        """Those of batch norm, which points that the line search of L-BFGS rejected have fed; before any validation."""
        with batch_norm.new_statistics(self.network) as norms:
            if norms:
                self(self.last_inputs)

    def step_epoch_schedulers(self) -> None:
        """At the end of an epoch, before its checkpoint is written."""
        if not is_last_batch_of_epoch(self.trainer):
            return  # max_steps has stopped the run within the epoch, which a resumed run completes
        is_known = self.validated or not self.monitor.startswith("val/")
        metric = self.trainer.callback_metrics.get(self.monitor) if is_known else None
        schedulers.step_epoch_schedulers(self.trainer.lr_scheduler_configs, metric)
        self.validated = False
