"""Image classification: the LightningModule that holds preprocessing, network, loss and metrics."""

import logging
import math
from functools import partial

import lightning.pytorch as L
import torch
from torch import Tensor, nn

from athanor.base.lightning_internals import (
    CheapHookName,
    exclude_from_ddp,
    is_last_batch_of_epoch,
    with_stored_signature,
)
from athanor.data.preprocess import Preprocess
from athanor.data.seeds import seed_step
from athanor.optim import schedulers, schedules
from athanor.optim.groups import parameter_groups
from athanor.optim.scaling import LRScaling
from athanor.tasks import non_finite, tta
from athanor.tasks.losses import at_least_float32

log = logging.getLogger(__name__)

CONSTANT, UNSCALED = schedules.Schedule(partial(schedules.constant)), LRScaling()


class Classifier(CheapHookName, L.LightningModule):
    """Maps uint8 images [N, C, H, W], as they are in the data set, to logits [N, num_classes].

    record: plain data that goes into each checkpoint, enough to build the classifier again from the file alone.
    optimizer: takes parameter groups; None where nothing is trained.
    monitor: the metric that ReduceLROnPlateau follows.
    metrics: further torchmetrics, computed on all predictions of a validation or test epoch.
    tta: the views that the test averages over; loss and accuracy of the averages are logged beside the plain ones.
    seed: dropout is a function of it, the process, the epoch and the batch.
    """

    last_counted_batch = -1  # of this epoch
    validated = False  # since the epoch schedulers last moved
    resumed_sums: Tensor | None = None  # [processes, 3] of the epoch in which the checkpoint was written
    decays = False  # the checkpoint's optimizer decayed weights, by control.yaml if not from its first step

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
        # modules
        self.network = network
        self.preprocess = preprocess
        self.loss = loss
        self.metrics = nn.ModuleDict(metrics)
        # settings
        self.record = record
        self.make_optimizer = optimizer
        self.schedule = schedule
        self.lr_scaling = lr_scaling
        self.monitor = monitor
        self.tta = tta
        self.seed = seed
        self.is_lbfgs = optimizer is not None and issubclass(optimizer.func, torch.optim.LBFGS)
        has_convolutions = any(isinstance(module, nn.Conv2d) for module in network.modules())
        self.channels_last = has_convolutions and not self.is_lbfgs  # torch's L-BFGS takes contiguous parameters only
        # what an epoch has seen so far
        self.sums: dict[str, list[Tensor]] = {}  # stage: sums of loss, correct, images. As buffers, DDP would copy them
        self.predictions: list[tuple[Tensor, Tensor]] = []  # logits and labels, for the metrics

        if self.channels_last:
            network.to(memory_format=torch.channels_last)
        exclude_from_ddp(self, [f"preprocess.{name}" for name, _ in preprocess.named_buffers()])  # they never change

    def forward(self, images: Tensor) -> Tensor:
        pixels = self.preprocess(images).to(self.dtype)  # self.dtype is bfloat16 under bf16-true, else float32
        if self.channels_last:  # after the preprocessing, which is four times slower on bytes in this order
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        return self.network(pixels)

    def on_train_batch_start(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        seed_step(self.device, self.seed, self.global_rank, self.current_epoch, batch_idx)

    @with_stored_signature
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss, logits = self.training_loss(images, labels)
        if batch_idx != self.last_counted_batch:  # L-BFGS calls this several times for each batch
            self.last_counted_batch = batch_idx
            self._count("train", loss.detach(), logits, labels.argmax(1) if labels.is_floating_point() else labels)
            is_logged = (self.global_step + 1) % self.trainer.log_every_n_steps == 0  # as Lightning counts
            if is_logged or loss.device.type == "cpu":  # reading a GPU's loss would wait for it
                self._check_finite(loss.item(), images=images, batch_idx=batch_idx)
            if is_logged:
                self.log("train/loss_step", loss, on_epoch=False)
        return loss

    def training_loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss that training minimises, a scalar, and the logits [N, num_classes], float32 or float64."""
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
        self.last_counted_batch = -1

    def on_validation_epoch_start(self) -> None:
        # each process has its own batch norm statistics, and a checkpoint has those of the first
        if self.trainer.world_size > 1:
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
        """A new optimizer of the network, with the learning rates that the run has before any schedule."""
        decays = self.make_optimizer.keywords.get("weight_decay") != 0 or self.decays
        optimizer = self.make_optimizer(parameter_groups(self.network, decays and not self.is_lbfgs))
        for group in optimizer.param_groups:
            group["lr"] *= self.lr_scaling.factor(self.global_batch)
        return optimizer

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
        lr = optimizer.param_groups[0]["lr"] / self.lr_scaling.factor(self.global_batch)
        if scaling := self.lr_scaling.notice(lr, self.global_batch):
            log.info(scaling)
        self.trainer.fit_loop.setup_data()  # without max_epochs, Lightning does not know the number of batches yet
        configs = []
        is_trial = bool(self.trainer.fast_dev_run)
        for scheduler, interval in self.schedule.schedulers(optimizer, self.run_length, is_trial):
            configs.append({"scheduler": scheduler, "interval": interval})
            if interval == "epoch":
                # moved by _step_epoch_schedulers instead: Lightning moves it after it has written the epoch's
                # checkpoint, and a resumed run would miss that move
                configs[-1] |= {"frequency": 2**62, "monitor": self.monitor}
        return [optimizer], configs

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["athanor"] = self.record
        sums = torch.stack(self.sums.get("train") or self._no_sums())
        gathered = [sums.clone() for _ in range(self.trainer.world_size)]
        if len(gathered) > 1:
            torch.distributed.all_gather(gathered, sums)
        checkpoint["within_epoch"] = {"sums": torch.stack(gathered), "validated": self.validated}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.resumed_sums = checkpoint["within_epoch"]["sums"]
        self.validated = checkpoint["within_epoch"]["validated"]
        self.decays = len(checkpoint["optimizer_states"][0]["param_groups"]) > 1

    def _evaluate(self, stage: str, images: Tensor, labels: Tensor) -> Tensor:
        logits = at_least_float32(self(images))
        self._count(stage, self.loss(logits, labels), logits, labels)
        if self.metrics:
            self.predictions.append((logits, labels))
        return logits

    def _count(self, stage: str, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        if stage not in self.sums:
            self.sums[stage] = self._no_sums()
        losses, correct, images = self.sums[stage]
        losses.add_(loss, alpha=len(labels))
        correct.add_((logits.argmax(1) == labels).sum())
        images.add_(len(labels))

    def _no_sums(self) -> list[Tensor]:
        # float32 explicitly: under bf16-true the default type is bfloat16, which counts to 256
        return [torch.zeros((), dtype=torch.float32, device=self.device) for _ in range(3)]

    def _means(self, stage: str) -> tuple[float, float, int]:
        """Loss, accuracy and number of the images that all processes have seen in this stage; resets the sums."""
        sums = torch.stack(self.sums.pop(stage, self._no_sums()))
        loss, correct, images = self.trainer.strategy.reduce(sums, reduce_op="sum").tolist()
        return loss / max(images, 1), correct / max(images, 1), int(images)

    def _log_epoch(self, stage: str) -> None:
        loss, acc, images = self._means(stage)
        if images == 0:
            return
        self.log_dict({f"{stage}/loss": loss, f"{stage}/acc": acc})
        self._check_finite(loss, stage)
        if stage == "train" and (warning := non_finite.useless_loss(loss, len(self.record["class_names"]))):
            log.warning(warning)
        if stage != "train":
            self._log_metrics(stage)

    def _log_metrics(self, stage: str) -> None:
        for name, metric in self.metrics.items():
            for logits, labels in self.predictions:
                metric.update(logits, labels)
            value = metric.compute()  # of all processes
            metric.reset()
            if value.ndim == 0:
                self.log(f"{stage}/{name}", value)
            else:
                classes = self.record["class_names"]
                self.log_dict({f"{stage}/{name}/{c}": v for c, v in zip(classes, value, strict=True)})
        self.predictions.clear()

    def _step_epoch_schedulers(self) -> None:
        if not is_last_batch_of_epoch(self.trainer):
            return  # max_steps has stopped the run within the epoch, which a resumed run completes
        configs = self.trainer.lr_scheduler_configs
        is_warming_up = any(isinstance(c.scheduler, schedulers.WarmUp) and not c.scheduler.is_over for c in configs)
        for config in configs:
            if config.interval != "epoch" or is_warming_up:  # ReduceLROnPlateau begins after the warm-up
                continue
            if not config.reduce_on_plateau:
                config.scheduler.step()
            elif self.validated or not self.monitor.startswith("val/"):
                config.scheduler.step(self.trainer.callback_metrics[self.monitor])
        self.validated = False

    def _check_finite(
        self, loss: float, stage: str = "train", images: Tensor | None = None, batch_idx: int = 0
    ) -> None:
        """Raise FloatingPointError for a loss that is not finite, and say where in the network it began.

        images: the batch that the loss is of, for which the network is run again.
        """
        if math.isfinite(loss):
            return

        def repeat() -> None:
            self.on_train_batch_start((), batch_idx)
            self(images)

        if images is None:
            place = non_finite.first_non_finite(self) or "the parameters are finite"
        else:
            the_loss = (
                f"first non-finite values: the loss itself ({type(self.loss).__name__}), of outputs that are finite"
            )
            place = non_finite.first_non_finite(self, repeat) or the_loss
        lr = self.trainer.optimizers[0].param_groups[0]["lr"] if self.trainer.optimizers else math.nan
        raise FloatingPointError(
            f"the {stage} loss is {loss} at step {self.global_step} (epoch {self.current_epoch}), "
            f"learning rate {lr:g}; {place}\n"
            "  try a smaller optim.lr, or trainer.gradient_clip_val=1"
        )
