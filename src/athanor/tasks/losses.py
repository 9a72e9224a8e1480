"""Losses: modules that map logits [N, num_classes] and labels int64 [N] to the mean loss over the batch, a scalar."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athanor.base.errors import UserError


def at_least_float32(tensor: Tensor) -> Tensor:
    """float32 in place of float16 and bfloat16, float64 as it is. A loss in bfloat16 would have three digits."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class CrossEntropy(nn.CrossEntropyLoss):
    """-log p_y, with label smoothing and class weights.

    label_smoothing: in [0, 1), the share of the target that is spread evenly over all classes.
    class_weights: one number for each class; or `balanced`, N / (num_classes * N_c), with which every class has the
    same total weight, however few images it has; or None, no weights.
    class_counts: int64 [num_classes], the number of training images of each class.
    Raises UserError for a smoothing outside [0, 1) and for a number of weights that is not the number of classes.
    """

    def __init__(
        self, label_smoothing: float, class_weights: list[float] | Literal["balanced"] | None, class_counts: Tensor
    ) -> None:
        if not 0 <= label_smoothing < 1:
            raise UserError(f"loss.label_smoothing={label_smoothing} is not in [0, 1)")
        weight = None
        if class_weights == "balanced":
            weight = class_counts.sum() / (len(class_counts) * class_counts.clamp_min(1).float())
        elif class_weights is not None:
            if len(class_weights) != len(class_counts):
                raise UserError(
                    f"loss.class_weights has {len(class_weights)} numbers for {len(class_counts)} classes; "
                    "give one a class, or balanced"
                )
            weight = torch.tensor(class_weights, dtype=torch.float32)
        super().__init__(weight, label_smoothing=label_smoothing)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        # trainer.precision=bf16-true casts the weights to bfloat16, and the logits are float32 here
        weight = None if self.weight is None else self.weight.to(logits.dtype)
        return F.cross_entropy(logits, labels, weight, label_smoothing=self.label_smoothing)


class Hinge(nn.Module):
    """Multiclass SVM loss (Weston and Watkins 1999): the sum over classes j != y of max(0, s_j - s_y + margin)^power.

    nn.MultiMarginLoss divides by the number of classes, this does not: with margin 1 and power 1, a network whose
    logits are all equal has the loss num_classes - 1.
    """

    def __init__(self, margin: float, power: Literal[1, 2]) -> None:
        super().__init__()
        self.margin = margin
        self.power = power

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        violation = (logits - logits.gather(1, labels[:, None]) + self.margin).clamp_min(0)  # [N, num_classes]
        violation = violation.scatter(1, labels[:, None], 0.0)  # the sum leaves out the class y itself
        return violation.pow(self.power).sum(1).mean()
