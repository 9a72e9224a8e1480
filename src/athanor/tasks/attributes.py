"""Attribute classification: several labels for each input, each of which is there or not."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import MultilabelAveragePrecision

from athanor.base.errors import UserError, require
from athanor.data.sources.checks import told
from athanor.data.sources.source import Source
from athanor.tasks.measure import LOSS, Measure
from athanor.tasks.task import Task


class Attributes(Task):
    """Maps inputs to one logit for each attribute, [N, K]; an attribute is predicted where its logit is above 0.

    Targets are 0 or 1, of any type, [N, K]. Class indices, int64 [N], are taken as one attribute for each class, of
    which exactly one is there: one-vs-all classification. `acc` is the share of right decisions over all inputs and
    attributes, and `f1` the mean over attributes of 2 TP / (2 TP + FP + FN); an attribute that is neither there nor
    predicted in an epoch is left out of it. Where attributes are rare, acc is high for a network that predicts none.
    """

    measures: ClassVar[dict[str, Measure]] = {"acc": Measure("max", "%"), "f1": Measure("max", "%"), "loss": LOSS}
    summed_by_output: ClassVar[tuple[str, ...]] = ("right", "hits", "predicted", "present")
    losses: ClassVar[tuple[str, ...]] = ("logistic", "one_vs_all_hinge")

    @classmethod
    def check_source(cls, source: Source) -> None:
        targets, names = source.train_targets, source.class_names
        if targets.ndim == 1 and targets.dtype == torch.int64 and names:
            return
        if targets.ndim != 2 or not ((targets == 0) | (targets == 1)).all():
            raise UserError(
                f"task=attributes takes targets of 0 and 1, [N, attributes], and this data has {told(targets)}"
            )
        attributes = targets.shape[1]
        require(
            len(names) in (0, attributes), f"task=attributes: {attributes} attributes, {len(names)} names of classes"
        )

    @classmethod
    def output_names(cls, source: Source, settings: dict) -> Sequence[str]:
        return source.class_names or [f"attribute_{i}" for i in range(source.train_targets.shape[1])]

    def targets_of(self, inputs: Tensor, targets: Tensor) -> Tensor:
        if targets.ndim == 1:
            targets = F.one_hot(targets, len(self.record["class_names"]))
        return targets.float()

    def sums(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        predicted, present = outputs > 0, targets > 0.5
        return {
            "right": (predicted == present).sum(0),
            "hits": (predicted & present).sum(0),
            "predicted": predicted.sum(0),
            "present": present.sum(0),
        }

    def measured(self, sums: dict[str, Tensor], count: int) -> dict[str, float]:
        f1 = 2 * sums["hits"] / (sums["predicted"] + sums["present"])  # nan of an attribute that never occurs
        return {"acc": sums["right"].mean().item() / count, "f1": f1.nanmean().nan_to_num().item()}

    def prediction(self, outputs: Tensor) -> Tensor:
        """The probability of each attribute, [N, K]."""
        return outputs.sigmoid()

    def described(self, prediction: Tensor) -> tuple[str, list[tuple[str, str]]]:
        pairs = list(zip(self.record["class_names"], prediction.tolist(), strict=True))
        found = [f"{name} {probability:.2%}" for name, probability in pairs if probability > 0.5]
        return "  ".join(found) or "no attribute", [(name, f"{probability:.6f}") for name, probability in pairs]

    @property
    def loss_of_guessing(self) -> float:
        """The logistic loss of the probability 1/2 for each attribute, in nats."""
        return math.log(2) * len(self.record["class_names"])


class AveragePrecision(MultilabelAveragePrecision):
    """The mean over attributes of the average precision: the area below precision over recall, [0, 1]."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_labels=num_classes, average="macro")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        super().update(outputs.sigmoid(), targets.long())
