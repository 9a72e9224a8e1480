"""Losses: modules that map outputs [N, ...] and their targets to the mean loss over the batch, a scalar.

Those without a sentence on it take logits [N, num_classes] and labels, int64 [N].
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athanor.base.errors import UserError, require


def at_least_float32(tensor: Tensor) -> Tensor:
    """float32 in place of float16 and bfloat16, float64 as it is. A loss in bfloat16 would have three digits."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class CrossEntropy(nn.CrossEntropyLoss):
    """-log p_y, with label smoothing and class weights: the sum of w_y l over the batch, divided by its size.

    Weights are scaled to a mean of 1 over the training images. So the gradient of an image does not depend on which
    others are in its batch, on accumulation or on the number of devices, as it would if each batch were divided by its
    own sum of weights (as torch does). Over an epoch, the loss is the sum of w_y l by the sum of w_y: `total_weight`.

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
            if not (weight >= 0).all() or not (weight * class_counts).sum() > 0:
                raise UserError(
                    f"loss.class_weights={class_weights}: use 0 or more, and above 0 for a class with images"
                )
            weight *= class_counts.sum() / (weight * class_counts).sum()
        super().__init__(weight, label_smoothing=label_smoothing)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.weight is None:
            return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        weight = self.weight.to(logits.dtype)  # bfloat16 under trainer.precision=bf16-true, and the logits are float32
        total = F.cross_entropy(logits, labels, weight, label_smoothing=self.label_smoothing, reduction="sum")
        return total / len(logits)

    def total_weight(self, labels: Tensor) -> Tensor | int:
        """The sum of the weights of a batch; its size where there are none, or where labels are probabilities."""
        if self.weight is None or labels.is_floating_point():
            return len(labels)
        return self.weight.float()[labels].sum()


class Distillation(nn.Module):
    """T^2 times the cross-entropy between a teacher's probabilities [N, C] at temperature T and softmax(logits / T).

    The gradient of that cross-entropy is smaller by about T^2, for which the factor makes up (Hinton et al. 2015,
    section 2). Of labels int64 [N], as in validation and test: the plain cross-entropy.
    Raises UserError for a temperature of 0 or less, and for labels in training: the teacher is missing.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        require(temperature > 0, f"loss.temperature={temperature:g}: use a number above 0")
        self.temperature = temperature

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        if not targets.is_floating_point():
            if self.training:
                raise UserError("a student learns from a teacher's probabilities, and got labels; choose another loss=")
            return F.cross_entropy(logits, targets)
        return self.temperature**2 * F.cross_entropy(logits / self.temperature, targets)


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


class OneVsAll(nn.Module):
    """A binary classifier for each attribute: logits f, targets y in {0, 1}, both [N, K], to the sum over attributes.

    logistic: log(1 + exp(-f)) where y is 1 and log(1 + exp(f)) where it is 0. hinge: max(0, 1 - f) and max(0, 1 + f).
    """

    def __init__(self, kind: Literal["logistic", "hinge"]) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.kind == "logistic":
            return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(logits)
        return (1 - (2 * targets - 1) * logits).clamp_min(0).sum(1).mean()


class InfoNCE(nn.Module):
    """-log of the softmax over the other 2N - 1 views that picks the second view of the same image (van den Oord et
    al. 2018, eq. 4; as NT-Xent, Chen et al. 2020, eq. 1): unit vectors [2N, dim], first views before second ones.

    temperature: cosines are divided by it. Targets are not used. Raises UserError for a temperature of 0 or less.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        require(temperature > 0, f"loss.temperature={temperature:g}: use a number above 0")
        self.temperature = temperature

    def forward(self, vectors: Tensor, targets: Tensor) -> Tensor:
        cosines = (vectors @ vectors.T / self.temperature).fill_diagonal_(-torch.inf)
        partner = torch.arange(len(vectors), device=vectors.device).roll(len(vectors) // 2)
        return F.cross_entropy(cosines, partner)
