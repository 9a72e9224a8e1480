"""Autoencoding: the input is the target."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torchvision.utils import make_grid, save_image

from athanor.base.errors import UserError, require
from athanor.base.files import write_atomically
from athanor.data.preprocess import scaled
from athanor.data.sources.checks import told
from athanor.data.sources.source import Source
from athanor.tasks.losses import at_least_float32
from athanor.tasks.measure import LOSS, Measure
from athanor.tasks.task import Task

SHOWN = 8  # pictures of the validation images, and below each its reconstruction


class Autoencoder(Task):
    """Maps images to their pixels in [0, 1], [N, C * H * W], other inputs to their numbers. Targets are not used.

    Any model is an autoencoder where a layer is narrower than the images: model=mlp model.widths=[256,32,256]. The
    preprocessing is part of the model and changes what it sees, not what it is compared with. `rmse` is the root of
    the mean squared error of a pixel. After each validation, eight images and their reconstructions are drawn into
    reconstructions.png in the run's directory, and into TensorBoard, where the inputs are pictures of 1 or 3 channels.
    Raises UserError for eval.tta: a reconstruction of another view is another picture.
    """

    measures: ClassVar[dict[str, Measure]] = {"rmse": Measure("min"), "loss": LOSS}
    summed: ClassVar[tuple[str, ...]] = ("squared",)
    losses: ClassVar[tuple[str, ...]] = ("mse", "mae", "huber")

    def __init__(self, *parts, **settings) -> None:
        super().__init__(*parts, **settings)
        require(self.tta == "none", f"eval.tta={self.tta}: task=autoencoder has none; type eval.tta=none")
        self.shown: Tensor | None = None  # pictures of this validation

    @classmethod
    def check_source(cls, source: Source) -> None:
        if source.train_inputs.dtype == torch.int64:
            raise UserError(f"task=autoencoder takes numbers, and the inputs are {told(source.train_inputs)}, indices")

    @classmethod
    def output_names(cls, source: Source, settings: dict) -> Sequence[str]:
        kind = "pixel" if source.train_inputs.ndim == 4 else "value"
        return [f"{kind}_{i}" for i in range(source.train_inputs[0].numel())]

    def targets_of(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return scaled(inputs.flatten(1))

    def sums(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"squared": (outputs - targets).square().mean(1).sum()}

    def measured(self, sums: dict[str, float], count: int) -> dict[str, float]:
        return {"rmse": math.sqrt(sums["squared"] / count)}

    def prediction(self, outputs: Tensor) -> Tensor:
        """Images [N, C, H, W] in [0, 1], or other inputs as they were."""
        values = outputs.view(-1, *self.record["input_shape"])
        return values.clamp(0, 1) if self.record["input_dtype"].startswith("uint") else values

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        judged = super().validation_step(batch, batch_idx)
        shape = self.record["input_shape"]
        if batch_idx == 0 and self.trainer.is_global_zero and len(shape) == 3 and shape[0] in (1, 3):
            images = batch[0][:SHOWN]
            self.shown = torch.cat([scaled(images), self.prediction(at_least_float32(self(images)))])
        return judged

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        if self.shown is not None and self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.fast_dev_run:
            grid = make_grid(self.shown, nrow=len(self.shown) // 2, padding=1)
            picture = io.BytesIO()
            save_image(grid, picture, format="png")
            write_atomically(Path(self.trainer.default_root_dir) / "reconstructions.png", picture.getvalue())
            for logger in self.trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_image("reconstructions", grid, self.global_step)
        self.shown = None
