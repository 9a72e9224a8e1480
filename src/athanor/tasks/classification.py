"""The one LightningModule: preprocess -> network -> loss, with its metrics."""

import inspect
import logging
import math
from functools import partial

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from athanor.data.preprocess import Preprocess
from athanor.data.seeds import seed_step
from athanor.optim import schedulers, schedules
from athanor.optim.groups import parameter_groups
from athanor.optim.scaling import LRScaling
from athanor.tasks import non_finite, tta

log = logging.getLogger(__name__)

CONSTANT, UNSCALED = schedules.Schedule(partial(schedules.constant)), LRScaling()


class Classifier(L.LightningModule):
    """Raw uint8 images [N, C, H, W] to logits [N, num_classes].

    record: plain data that goes into each checkpoint, enough to build the classifier again from the file alone.
    metrics: further torchmetrics, computed on the stored predictions of val and test.
    tta: views that the test averages over; its loss and accuracy stand beside those of the plain images.
    """

    def __init__(
        self,
        network: nn.Module,
        preprocess: Preprocess,
        loss: nn.Module,
        *,
        record: dict,
        optimizer: partial | None = None,
        schedule: schedules.Schedule = CONSTANT,
        lr_scaling: LRScaling = UNSCALED,
        monitor: str = "val/loss",
        metrics: dict[str, nn.Module] | None = None,
        tta: tta.Kind = "none",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.network, self.preprocess, self.loss = network, preprocess, loss
        self.record, self.monitor, self.seed = record, monitor, seed
        self.make_optimizer, self.schedule, self.lr_scaling = optimizer, schedule, lr_scaling
        self.metrics, self.tta = nn.ModuleDict(metrics), tta
        self.is_lbfgs = optimizer is not None and issubclass(optimizer.func, torch.optim.LBFGS)
        has_convolutions = any(isinstance(module, nn.Conv2d) for module in network.modules())
        self.images_last = has_convolutions and not self.is_lbfgs  # torch's L-BFGS takes contiguous parameters only
        if self.images_last:
            network.to(memory_format=torch.channels_last)
        self.sums: dict[str, list[Tensor]] = {}  # stage -> losses, correct, images; no buffers: DDP would copy them
        self.stored: list[tuple[Tensor, Tensor]] = []
        self.resumed_sums: Tensor | None = None  # [processes, 3] of the epoch in which the checkpoint was written
        self.decayed_before = False  # a resumed run, by control.yaml if not from its beginning
        self.last_counted = -1  # batch of this epoch
        self.validated = False  # since the epoch schedulers last moved
        # a fitted preprocess never changes, so DDP need not broadcast it before every step (ZCA on CIFAR: 38 MB)
        constant = [f"preprocess.{name}" for name, _ in preprocess.named_buffers()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, constant)

    def __setattr__(self, name: str, value: object) -> None:
        if name == "_current_fx_name":  # Lightning sets it 48 times a step; nn.Module's way takes 2 us each
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def forward(self, images: Tensor) -> Tensor:
        pixels = self.preprocess(images).to(self.dtype)  # self.dtype is bfloat16 under bf16-true, else float32
        if self.images_last:  # after the preprocessing, which is four times slower on bytes in this order
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        return self.network(pixels)

    def on_train_batch_start(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        seed_step(self.device, self.seed, self.global_rank, self.current_epoch, batch_idx)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss, logits = self.training_loss(images, labels)
        if batch_idx != self.last_counted:  # L-BFGS calls this several times a batch
            self.last_counted = batch_idx
            self._count("train", loss.detach(), logits, labels.argmax(1) if labels.is_floating_point() else labels)
            logged = (self.global_step + 1) % self.trainer.log_every_n_steps == 0  # as Lightning counts
            if logged or loss.device.type == "cpu":  # reading a GPU's loss at every step would wait for it
                self._check_finite(loss.item(), images=images, batch_idx=batch_idx)
            if logged:
                self.log("train/loss_step", loss, on_epoch=False)
        return loss

    def training_loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """What training makes small, and the logits that it is of."""
        logits = at_least_float32(self(images))
        return self.loss(logits, labels), logits

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate("val", *batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self._evaluate("test", images, labels)
        if self.tta != "none":
            logits = at_least_float32(tta.averaged(self, images, self.tta, logits))
            self._count("test_tta", self.loss(logits, labels), logits, labels)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self(batch[0]).float().softmax(1)

    def on_train_start(self) -> None:
        if self.resumed_sums is not None:
            own = self.resumed_sums[self.global_rank].to(self.device)
            self.sums["train"], self.resumed_sums = list(own.unbind()), None

    def on_train_epoch_start(self) -> None:
        self.last_counted = -1

    def on_validation_epoch_start(self) -> None:
        if (
            self.trainer.world_size > 1
        ):  # each process has batch norm statistics of its own; a checkpoint has the first's
            for buffer in self.network.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def on_train_epoch_end(self) -> None:
        self._log_epoch("train")
        self._step_epoch_schedulers()

    def on_validation_epoch_end(self) -> None:
        self.validated = True
        self._log_epoch("val")

    def on_test_epoch_end(self) -> None:
        self._log_epoch("test")
        if self.tta != "none":
            loss, acc, _ = self._means("test_tta")
            self.log_dict({"test/loss_tta": loss, "test/acc_tta": acc})

    def fresh_optimizer(self) -> torch.optim.Optimizer:
        """At the learning rate that the run starts from, but for its schedule."""
        decay = self.make_optimizer.keywords.get("weight_decay") != 0 or self.decayed_before
        decay = decay and not self.is_lbfgs
        optimizer = self.make_optimizer(parameter_groups(self.network, decay))
        for group in optimizer.param_groups:
            group["lr"] *= self.lr_scaling.factor(self.global_batch)
        return optimizer

    @property
    def global_batch(self) -> int:
        """Images a step, over all devices and accumulated batches."""
        return self.trainer.datamodule.batch_size * self.trainer.accumulate_grad_batches

    @property
    def run_length(self) -> schedules.RunLength:
        """Known once the trainer has set up its data."""
        per_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        return schedules.RunLength(self.trainer.estimated_stepping_batches, per_epoch)

    def configure_optimizers(self):
        optimizer = self.fresh_optimizer()
        lr = optimizer.param_groups[0]["lr"] / self.lr_scaling.factor(self.global_batch)
        if scaled := self.lr_scaling.notice(lr, self.global_batch):
            log.info(scaled)
        self.trainer.fit_loop.setup_data()  # else a run without max_epochs does not know its batches yet
        configs = []
        is_trial = bool(self.trainer.fast_dev_run)
        for scheduler, interval in self.schedule.schedulers(optimizer, self.run_length, is_trial):
            configs.append({"scheduler": scheduler, "interval": interval})
            if interval == "epoch":
                # Lightning would move it after the epoch's checkpoint is written, and a resumed run would miss a move
                configs[-1] |= {"frequency": 2**62, "monitor": self.monitor}
        return [optimizer], configs

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["athanor"] = self.record
        sums = torch.stack(self.sums.get("train") or self._no_sums())
        of_all = [sums.clone() for _ in range(self.trainer.world_size)]
        if len(of_all) > 1:
            torch.distributed.all_gather(of_all, sums)
        checkpoint["within_epoch"] = {"sums": torch.stack(of_all), "validated": self.validated}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.resumed_sums = checkpoint["within_epoch"]["sums"]
        self.validated = checkpoint["within_epoch"]["validated"]
        self.decayed_before = len(checkpoint["optimizer_states"][0]["param_groups"]) > 1

    def _evaluate(self, stage: str, images: Tensor, labels: Tensor) -> Tensor:
        logits = at_least_float32(self(images))
        self._count(stage, self.loss(logits, labels), logits, labels)
        if self.metrics:
            self.stored.append((logits, labels))
        return logits

    def _count(self, stage: str, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        if stage not in self.sums:
            self.sums[stage] = self._no_sums()
        losses, correct, images = self.sums[stage]
        losses.add_(loss, alpha=len(labels))
        correct.add_((logits.argmax(1) == labels).sum())
        images.add_(len(labels))

    def _no_sums(self) -> list[Tensor]:
        # not the default dtype: under bf16-true that is bfloat16, which counts to 256
        return [torch.zeros((), dtype=torch.float32, device=self.device) for _ in range(3)]

    def _means(self, stage: str) -> tuple[float, float, int]:
        """Loss and accuracy over the images of all processes, each counted once, and how many there were."""
        sums = torch.stack(self.sums.pop(stage, self._no_sums()))
        loss, correct, images = self.trainer.strategy.reduce(sums, reduce_op="sum").tolist()
        return loss / max(images, 1), correct / max(images, 1), int(images)

    def _log_epoch(self, stage: str) -> None:
        loss, acc, images = self._means(stage)
        if images == 0:
            return
        self.log_dict({f"{stage}/loss": loss, f"{stage}/acc": acc})
        self._check_finite(loss, stage)
        if stage == "train" and (warning := non_finite.absurd(loss, len(self.record["class_names"]))):
            log.warning(warning)
        if stage != "train":
            self._log_metrics(stage)

    def _log_metrics(self, stage: str) -> None:
        for name, metric in self.metrics.items():
            for logits, labels in self.stored:
                metric.update(logits, labels)
            value = metric.compute()  # over all processes
            metric.reset()
            if value.ndim == 0:
                self.log(f"{stage}/{name}", value)
            else:
                classes = self.record["class_names"]
                self.log_dict({f"{stage}/{name}/{c}": v for c, v in zip(classes, value, strict=True)})
        self.stored.clear()

    def _step_epoch_schedulers(self) -> None:
        if not self.trainer.fit_loop.epoch_loop._num_ready_batches_reached():
            return  # stopped by max_steps in mid-epoch; whoever resumes ends the epoch
        moving = [config.scheduler for config in self.trainer.lr_scheduler_configs]
        is_warming_up = any(isinstance(scheduler, schedulers.WarmUp) and not scheduler.is_over for scheduler in moving)
        for config in self.trainer.lr_scheduler_configs:
            if config.interval != "epoch" or is_warming_up:  # plateau begins after it
                continue
            if not config.reduce_on_plateau:
                config.scheduler.step()
            elif self.validated or not self.monitor.startswith("val/"):
                config.scheduler.step(self.trainer.callback_metrics[self.monitor])
        self.validated = False

    def _check_finite(
        self, loss: float, stage: str = "train", images: Tensor | None = None, batch_idx: int = 0
    ) -> None:
        """End the run at a loss that is not finite, and say where in the network it began: on `images`, its batch."""
        if math.isfinite(loss):
            return
        lr = self.trainer.optimizers[0].param_groups[0]["lr"] if self.trainer.optimizers else math.nan
        place = non_finite.first_non_finite(self, images, batch_idx)
        raise FloatingPointError(
            f"the {stage} loss is {loss} at step {self.global_step} (epoch {self.current_epoch}), "
            f"learning rate {lr:g}; {place or 'the parameters are finite'}\n"
            "  try a smaller optim.lr, or trainer.gradient_clip_val=1"
        )


# Lightning inspects it at every step, for whether it takes batch_idx: 20 us instead of 60
Classifier.training_step.__signature__ = inspect.signature(Classifier.training_step)


def at_least_float32(logits: Tensor) -> Tensor:
    """A loss in bfloat16 would have three digits."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
