"""Regression: one or several numbers for each input."""

import logging
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from athanor.base.errors import UserError
from athanor.data.sources.checks import told
from athanor.data.sources.source import Source
from athanor.tasks.losses import at_least_float32
from athanor.tasks.measure import LOSS, Measure
from athanor.tasks.task import Task

log = logging.getLogger(__name__)

FAR = 6  # standard deviations: the square of such a target is as large as 36 others


class Regression(Task):
    """Maps inputs to numbers in the units of the targets, [N, K]. Targets are numbers, [N] or [N, K].

    The network predicts, and the loss compares, standardised values: mean 0 and standard deviation 1 over the train
    split, of each number by itself. So rates and losses do not depend on units, and several numbers weigh the same.
    `rmse` (root of the mean squared error) and `mae` (mean absolute error) are in units, and means over the K numbers;
    `r2` is 1 - squared error / squared deviation from the mean of the same inputs, the mean over the K numbers: 1 is
    perfect, and predicting the mean has 0.

    A squared loss is fragile: one far target has a large gradient, and dropout just before the output moves it by a
    factor. Training says so where it applies. A number that has few values, or that is needed in steps only, is better
    learned as classes (task=classification).
    """

    measures: ClassVar[dict[str, Measure]] = {
        "rmse": Measure("min"),
        "mae": Measure("min"),
        "r2": Measure("max"),
        "loss": LOSS,
    }
    summed_by_output: ClassVar[tuple[str, ...]] = ("squared", "absolute", "value", "value_squared")
    losses: ClassVar[tuple[str, ...]] = ("mse", "mae", "huber")

    def __init__(self, *parts, **settings) -> None:
        super().__init__(*parts, **settings)
        outputs = len(self.record["class_names"])
        self.register_buffer("target_mean", torch.zeros(outputs))
        self.register_buffer("target_std", torch.ones(outputs))

    @classmethod
    def check_source(cls, source: Source) -> None:
        targets = source.train_targets
        if targets.ndim not in (1, 2):
            raise UserError(
                f"task=regression takes numbers, [N] or [N, numbers], and this data has targets {told(targets)}"
            )

        names = source.class_names
        if targets.ndim == 1 and targets.dtype == torch.int64 and names and names != tuple(map(str, range(len(names)))):
            raise UserError(
                f"task=regression takes numbers, and the targets are indices of classes ({', '.join(names[:3])}, "
                "and so on); return numbers, of a CSV file with data.target_kind=numbers"
            )

    @classmethod
    def output_names(cls, source: Source, settings: dict) -> Sequence[str]:
        if source.train_targets.ndim == 1:
            return ["value"]
        numbers = source.train_targets.shape[1]
        return source.class_names if len(source.class_names) == numbers else [f"value_{i}" for i in range(numbers)]

    def fit_targets(self, targets: Tensor) -> None:
        values = self.targets_of(targets, targets).double()
        std, mean = torch.std_mean(values, 0, correction=0)
        std[std == 0] = 1  # all are equal
        self.target_mean.copy_(mean)
        self.target_std.copy_(std)
        if isinstance(self.loss, nn.MSELoss):
            self._warn(((values - mean) / std).abs() > FAR)

    def _warn(self, far: Tensor) -> None:
        """far: bool [N, K]."""
        if count := far.any(1).sum().item():
            log.warning(
                "warning: %d training targets are more than %d standard deviations from the mean, and outweigh others "
                "in a squared loss; loss=huber or loss=mae bounds their gradients", count, FAR
            )  # fmt: skip
        *_, last = [m for m in self.network.modules() if isinstance(m, (nn.Dropout, nn.Linear))][:-1] or [None]
        if isinstance(last, nn.Dropout) and last.p:
            log.warning(
                "warning: dropout just before the output moves each prediction by a factor, which a squared loss "
                "punishes; model.dropout=0 may be better"
            )

    def targets_of(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return at_least_float32(targets.reshape(len(targets), -1).to(torch.promote_types(targets.dtype, torch.float32)))

    def forward(self, inputs: Tensor) -> Tensor:
        return at_least_float32(super().forward(inputs)) * self.target_std + self.target_mean

    def loss_of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.loss(self._standardised(outputs), self._standardised(targets))

    def _standardised(self, values: Tensor) -> Tensor:
        return (values - self.target_mean) / self.target_std

    def sums(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        error, value = self._standardised(outputs) - self._standardised(targets), self._standardised(targets)
        return {
            "squared": error.square().sum(0),
            "absolute": error.abs().sum(0),
            "value": value.sum(0),
            "value_squared": value.square().sum(0),
        }

    def measured(self, sums: dict[str, Tensor], count: int) -> dict[str, float]:
        squared, absolute, value, value_squared = (sums[name].double() / count for name in self.summed_by_output)
        std, spread = self.target_std.cpu().double(), value_squared - value.square()
        return {
            "rmse": (squared.sqrt() * std).mean().item(),
            "mae": (absolute * std).mean().item(),
            "r2": (1 - squared / spread.clamp_min(torch.finfo(torch.float32).eps)).mean().item(),
        }

    @property
    def loss_of_guessing(self) -> float:
        """The squared loss of the mean."""
        return 1.0
