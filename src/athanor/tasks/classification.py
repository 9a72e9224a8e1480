"""Classification: one of several classes for each input."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from athanor.base.errors import UserError, require
from athanor.data.sources.checks import told
from athanor.data.sources.source import Source
from athanor.tasks.measure import LOSS, Measure
from athanor.tasks.task import Task


class Classification(Task):
    """Maps inputs to logits [N, num_classes]; `acc` is the share of inputs whose largest logit is that of their class.

    Targets are class indices, int64 [N]. Training also takes probabilities, float [N, num_classes], those of an
    ensemble that is distilled or of images that are mixed; an input then counts as right if the most probable class is
    predicted.
    """

    measures: ClassVar[dict[str, Measure]] = {"acc": Measure("max", "%"), "loss": LOSS}
    summed: ClassVar[tuple[str, ...]] = ("acc",)
    losses: ClassVar[tuple[str, ...]] = ("cross_entropy", "hinge", "squared_hinge")
    takes_probabilities: ClassVar[bool] = True

    @classmethod
    def check_source(cls, source: Source) -> None:
        targets = source.train_targets
        if targets.dtype != torch.int64 or targets.ndim != 1:
            raise UserError(
                f"task=classification takes class indices, int64 [N], and this data has targets {told(targets)}"
            )
        require(source.class_names, "task=classification needs the names of the classes; return class_names")

    def sums(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        labels = targets.argmax(1) if targets.is_floating_point() else targets
        return {"acc": (outputs.argmax(1) == labels).sum()}

    def prediction(self, outputs: Tensor) -> Tensor:
        """Probabilities [N, num_classes]."""
        return outputs.softmax(1)

    def described(self, prediction: Tensor) -> tuple[str, list[tuple[str, str]]]:
        names, best = self.record["class_names"], int(prediction.argmax())
        cells = zip(names, (f"{probability:.6f}" for probability in prediction.tolist()), strict=True)
        return f"{names[best]}  {prediction[best]:.2%}", [("class", names[best]), *cells]

    @property
    def loss_of_guessing(self) -> float:
        """Cross-entropy of equal probabilities, in nats."""
        return math.log(max(len(self.record["class_names"]), 2))
