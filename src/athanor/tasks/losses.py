"""Losses that take logits [N, num_classes] and labels [N] and give the mean over the batch."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CrossEntropy(nn.CrossEntropyLoss):
    """-log p_y, with label smoothing and class weights.

    class_weights: one number a class, or `balanced`: N / (num_classes * N_c), so that each class counts the same
    however rare it is. `class_counts` are the training images of each class.
    """

    def __init__(
        self, label_smoothing: float, class_weights: list[float] | Literal["balanced"] | None, class_counts: Tensor
    ) -> None:
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"loss.label_smoothing={label_smoothing} is not in [0, 1)")
        weight = None
        if class_weights == "balanced":
            weight = class_counts.sum() / (len(class_counts) * class_counts.clamp_min(1).float())
        elif class_weights is not None:
            if len(class_weights) != len(class_counts):
                raise ValueError(
                    f"loss.class_weights has {len(class_weights)} numbers for {len(class_counts)} classes; "
                    "give one a class, or balanced"
                )
            weight = torch.tensor(class_weights, dtype=torch.float32)
        super().__init__(weight, label_smoothing=label_smoothing)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        weight = None if self.weight is None else self.weight.to(logits.dtype)  # bf16-true casts the one, not the other
        return F.cross_entropy(logits, labels, weight, label_smoothing=self.label_smoothing)


class Hinge(nn.Module):
    """Multiclass SVM (Weston & Watkins 1999): the sum over j != y of max(0, s_j - s_y + margin)^power.

    Unlike nn.MultiMarginLoss it is a sum over classes, not a mean: at margin 1 a fresh net of C classes loses C - 1.
    """

    def __init__(self, margin: float, power: Literal[1, 2]) -> None:
        super().__init__()
        self.margin, self.power = margin, power

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        violation = (logits - logits.gather(1, labels[:, None]) + self.margin).clamp_min(0)
        violation = violation.scatter(1, labels[:, None], 0.0)  # the class itself is not in the sum
        return violation.pow(self.power).sum(1).mean()
