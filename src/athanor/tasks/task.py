"""The base of every task: the LightningModule that holds preprocessing, network, loss and what is measured."""

import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

import lightning.pytorch as L
import torch
from torch import Tensor, nn

from athanor.base.errors import NonFiniteError, UserError
from athanor.base.lightning_internals import exclude_from_ddp, with_stored_signature
from athanor.data.preprocess import Preprocess
from athanor.data.seeds import seed_step
from athanor.data.sources.source import Source
from athanor.optim import schedules
from athanor.optim.groups import OwnGroups
from athanor.optim.scaling import LRScaling
from athanor.tasks import non_finite, tta
from athanor.tasks.frozen import Frozen
from athanor.tasks.losses import at_least_float32
from athanor.tasks.measure import LOSS, Measure
from athanor.tasks.metric_values import metric_measure, metric_parts
from athanor.tasks.optimized import CONSTANT, NO_GROUPS, NOT_FROZEN, UNSCALED, Optimized
from athanor.tasks.sums import EpochSums

log = logging.getLogger(__name__)


def require_task(module: L.LightningModule, what: str) -> None:
    """Raise UserError where a module is no Task, which `what` needs."""
    if not isinstance(module, Task):
        raise UserError(f"{what} needs a Task, as in src/athanor/tasks/task.py, and {type(module).__name__} is none")


class Task(Optimized):
    """What is learned: inputs are preprocessed and go through the network, whose outputs a loss compares with targets.

    A task of one's own is a subclass in src/athanor/tasks/<name>.py and configs/task/<name>.yaml. It says what it
    measures (`measures`, `summed`, `sums`, `measured`), which data it takes (`check_source`, `output_names`), what its
    outputs are compared with (`targets_of`), and where its loss of a batch is more than `loss(outputs, targets)`,
    `loss_of`, or `training_loss` for training alone. All else asks the task: progress bar, summary, tables, figures,
    monitors, averages of weights. Its YAML has the arguments that it adds:
    `def __init__(self, *parts, margin: float, **settings): super().__init__(*parts, **settings)`.
    Modules that it makes besides `network` are trained, averaged and saved with it, where they require gradients.

    record: plain data that goes into each checkpoint, enough to build the task again from the file alone.
    optimizer: takes parameter groups; None where nothing is trained.
    monitor: the metric that ReduceLROnPlateau follows.
    metrics: further torchmetrics, computed on all outputs and targets of a validation or test epoch.
    tta: the views that the test averages over; what is measured on the averages is logged beside the plain values.
    groups: of parameters that have rates of their own. frozen: which parts of the network are not trained.
    seed: dropout is a function of it, the process, the epoch and the batch.
    """

    measures: ClassVar[dict[str, Measure]] = {"loss": LOSS}  # by name, the headline first; an object adds its metrics
    summed: ClassVar[tuple[str, ...]] = ()  # names of what `sums` gives
    summed_by_output: ClassVar[tuple[str, ...]] = ()  # the same, with a number for each output of the network
    losses: ClassVar[tuple[str, ...]] = ()  # options of the group loss that fit; those of other tasks are refused
    takes_probabilities: ClassVar[bool] = False  # [N, num_classes] in training, as data.mixup makes them of classes
    views: ClassVar[int] = 1  # of each input in a batch, which data.views has to give
    fresh_network: Callable[[], nn.Module] | None = None  # draws a network with other initial weights; None: given ones
    last_counted_batch = -1  # of this epoch

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
        groups: OwnGroups = NO_GROUPS,
        frozen: Frozen = NOT_FROZEN,
    ) -> None:
        super().__init__(network, optimizer, schedule, lr_scaling, monitor, groups, frozen)
        # modules
        self.preprocess = preprocess
        self.loss = loss
        self.total_weight = getattr(loss, "total_weight", len)  # of a batch's targets
        self.metrics = nn.ModuleDict(metrics)
        self.measures = {**type(self).measures, **{name: metric_measure(m) for name, m in self.metrics.items()}}
        # settings
        self.record = record
        self.tta = tta
        self.seed = seed
        # torch's L-BFGS takes contiguous parameters only
        self.channels_last = not self.is_lbfgs and any(isinstance(module, nn.Conv2d) for module in network.modules())
        # what an epoch has seen so far
        of_outputs = dict.fromkeys(self.summed_by_output, (len(record.get("class_names", ())),))
        self.epoch_sums = EpochSums({**dict.fromkeys(self.summed, ()), **of_outputs})
        self.predictions: list[tuple[Tensor, Tensor]] = []  # outputs and their targets, for the metrics
        self.matrices: dict[str, Tensor] = {}  # [R, C], the values of metrics that are such, as of val/confusion_matrix

        if self.channels_last:
            network.to(memory_format=torch.channels_last)
        exclude_from_ddp(self, [f"preprocess.{name}" for name, _ in preprocess.named_buffers()])  # they never change

    # what a task of one's own may change

    @classmethod
    def check_source(cls, source: Source) -> None:
        """Raise UserError where the targets of a data set are not what this task takes."""

    @classmethod
    def output_names(cls, source: Source, settings: dict) -> Sequence[str]:
        """A name for each output of the network; models take their number as `num_classes`.

        settings: what the config says at `task`.
        """
        return source.class_names or [f"output_{i}" for i in range(source.train_targets[0].numel())]

    def fit_targets(self, targets: Tensor) -> None:
        """Called once before training with the targets of the train split; what is kept of them has to be a buffer."""

    def targets_of(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """What the outputs for a batch of raw inputs [N, ...] are compared with, from the targets of the data."""
        return targets

    def loss_of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch, a scalar; `targets` are those of `targets_of`, here and below."""
        return self.loss(outputs, targets)

    def training_loss(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The loss that training minimises, a scalar, and the outputs [N, ...], float32 or float64."""
        outputs = at_least_float32(self(inputs))
        return self.loss_of(outputs, targets), outputs

    def sums(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """What is summed over the inputs of an epoch, of a batch: a scalar for each name in `summed`, and [outputs] for
        each in `summed_by_output`.
        """
        return {}

    def measured(self, sums: dict[str, float | Tensor], count: int) -> dict[str, float]:
        """Values of the measures apart from the loss, from the sums over `count` inputs: by default their means.

        Sums are numbers, and those by output tensors on the CPU.
        """
        return {name: total / count for name, total in sums.items()}

    def prediction(self, outputs: Tensor) -> Tensor:
        """What outputs [N, ...] say, as trainer.predict gives it."""
        return outputs

    def described(self, prediction: Tensor) -> tuple[str, list[tuple[str, str]]]:
        """The prediction for one input as a line of text, and as cells of a table with their heads."""
        texts = [f"{value:.6g}" for value in prediction.flatten().tolist()]
        return "  ".join(texts), list(zip(self.record["class_names"], texts, strict=True))

    @property
    def loss_of_guessing(self) -> float | None:
        """The loss of outputs that know nothing, where one can say; training warns of a million times as much."""
        return None

    # steps

    def forward(self, inputs: Tensor) -> Tensor:
        pixels = self.preprocess(inputs)
        if pixels.is_floating_point():  # and not indices
            pixels = pixels.to(self.dtype)  # bfloat16 under bf16-true, else float32
        if (
            self.channels_last and pixels.ndim == 4
        ):  # after the preprocessing, which is four times slower on bytes in this order
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        return self.network(pixels)

    def on_train_batch_start(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        seed_step(self.device, self.seed, self.global_rank, self.current_epoch, batch_idx)

    @with_stored_signature
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        inputs, targets = batch[0], self.targets_of(*batch)
        if self.is_lbfgs:  # which calls this many times in a step; dropout draws the same masks, so it is one function
            self.on_train_batch_start(batch, batch_idx)
            self.last_inputs = inputs
        loss, outputs = self.training_loss(inputs, targets)
        if batch_idx != self.last_counted_batch:  # L-BFGS calls this several times for each batch
            self.last_counted_batch = batch_idx
            self._count("train", loss.detach(), outputs.detach(), targets)  # else they keep the graphs of an epoch
            is_logged = (self.global_step + 1) % self.trainer.log_every_n_steps == 0  # as Lightning counts
            if is_logged or loss.device.type == "cpu":  # reading a GPU's loss would wait for it
                self.check_finite(loss.item(), inputs=inputs, batch_idx=batch_idx)
            if is_logged:
                self.log("train/loss_step", loss, on_epoch=False)
        rest = self.trainer.num_training_batches % self.trainer.accumulate_grad_batches
        if rest and batch_idx >= self.trainer.num_training_batches - rest:
            # of the last group of accumulated batches, which is smaller: Lightning divides by the size of a whole one
            loss = loss * (self.trainer.accumulate_grad_batches / rest)
        return {"loss": loss, "outputs": outputs.detach(), "targets": targets}

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return self._keep(self.evaluate("val", *batch))

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        judged = self._keep(self.evaluate("test", *batch))
        if self.tta != "none":
            outputs = at_least_float32(tta.averaged(self, batch[0], self.tta, judged["outputs"]))
            self._judge("test_tta", outputs, judged["targets"])
        return judged

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self.prediction(self(batch[0]).float())

    def evaluate(self, stage: str, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Count a batch for this stage; gives its `loss`, a scalar, its `outputs` [N, ...], float32 or float64, and the
        `targets` that they are compared with, as callbacks get them in on_validation_batch_end(outputs=...).
        """
        return self._judge(stage, at_least_float32(self(inputs)), self.targets_of(inputs, targets))

    def values_of(self, stage: str) -> dict[str, float]:
        """Loss and measures of all that the processes have counted for a stage, which then begins anew.

        Empty where they have counted nothing.
        """
        loss, count, sums = self.epoch_sums.take(stage, self.trainer.strategy)
        return {"loss": loss, **self.measured(sums, count)} if count else {}

    # epochs

    def on_train_start(self) -> None:
        self.epoch_sums.resume("train", self.global_rank, self.trainer.world_size, self.device)

    def on_train_epoch_start(self) -> None:
        if self.frozen_parts:
            self.train()  # which leaves them in eval mode, as long as they are frozen
        self.last_counted_batch = -1

    def on_validation_epoch_start(self) -> None:
        # each process has its own batch norm statistics, and a checkpoint has those of the first
        if self.trainer.world_size > 1:
            for buffer in self.network.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def on_train_epoch_end(self) -> None:
        self._log_epoch("train")
        self.step_epoch_schedulers()

    def on_validation_epoch_end(self) -> None:
        self.validated = True
        self._log_epoch("val")

    def on_test_epoch_end(self) -> None:
        self._log_epoch("test")
        if self.tta != "none":
            self.log_dict({f"test/{name}_tta": value for name, value in self.values_of("test_tta").items()})

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["athanor"] = self.record
        sums = self.epoch_sums.gathered("train", self.device, self.trainer.world_size)
        checkpoint["within_epoch"] = {"sums": sums, "validated": self.validated}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.epoch_sums.resumed = checkpoint["within_epoch"]["sums"]
        self.validated = checkpoint["within_epoch"]["validated"]
        self.decays = len(checkpoint["optimizer_states"][0]["param_groups"]) > 1

    def _keep(self, judged: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.metrics:
            self.predictions.append((judged["outputs"], judged["targets"]))
        return judged

    def _judge(self, stage: str, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        loss = self.loss_of(outputs, targets)
        self._count(stage, loss, outputs, targets)
        return {"loss": loss, "outputs": outputs, "targets": targets}

    def _count(self, stage: str, loss: Tensor, outputs: Tensor, targets: Tensor) -> None:
        self.epoch_sums.add(stage, loss, len(targets), self.total_weight(targets), self.sums(outputs, targets))

    def _log_epoch(self, stage: str) -> None:
        values = self.values_of(stage)
        if not values:
            return
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()})
        # how many that is; of the metrics of a checkpoint, and not of the loggers
        self.log(f"{stage}/inputs", float(self.epoch_sums.counts[stage]), logger=False)
        self.check_finite(values["loss"], stage)
        if stage == "train" and (warning := non_finite.useless_loss(values["loss"], self.loss_of_guessing)):
            log.warning(warning)
        if stage != "train":
            self._log_metrics(stage)

    def _log_metrics(self, stage: str) -> None:
        for name, metric in self.metrics.items():
            for outputs, targets in self.predictions:
                metric.update(outputs, targets)
            value = metric.compute()  # of all processes
            metric.reset()
            for path, part in metric_parts(f"{stage}/{name}", value, self.record["class_names"]):
                if part.ndim:
                    self.matrices[path] = part.cpu()
                else:
                    self.log(path, part)
        self.predictions.clear()

    def check_finite(self, loss: float, stage: str = "train", inputs: Tensor | None = None, batch_idx: int = 0) -> None:
        """Raise FloatingPointError for a loss that is not finite, and say where in the network it began.

        inputs: of the batch that the loss is of, for which the network is run again.
        """
        if math.isfinite(loss):
            return

        def repeat() -> None:
            self.on_train_batch_start((), batch_idx)
            self(inputs)

        place = non_finite.place_of_loss(self, self.loss, None if inputs is None else repeat)
        lr = self.trainer.optimizers[0].param_groups[0]["lr"] if self.trainer.optimizers else math.nan
        raise NonFiniteError(
            f"the {stage} loss is {loss} at step {self.global_step} (epoch {self.current_epoch}), "
            f"learning rate {lr:g}; {place}\n"
            "  try a smaller optim.lr, or trainer.gradient_clip_val=1"
        )
