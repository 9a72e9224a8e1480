"""One prediction of several classifiers, and how good a prediction is. Tensors in, tensors out."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from athanor.tasks.classification import Classification
from athanor.tasks.losses import at_least_float32
from athanor.tasks.measure import Measure

How = Literal["probabilities", "logits", "vote"]
MEASURES = {**Classification.measures, "ece": Measure("min")}  # of `scores`
TIE = 1e-6  # shares of votes that differ by less are equal
BINS = 15  # of the confidence, in `calibration_error`


def combined(logits: Tensor, how: How = "probabilities", weights: Tensor | None = None) -> Tensor:
    """Log-probabilities [N, C] of an ensemble from its members' logits [M, N, C].

    probabilities: the weighted mean of the members' probabilities (deep ensembles, Lakshminarayanan et al. 2017,
    section 2.4). logits: their weighted geometric mean, normalised. The loss of either is at most the weighted mean of
    the members' losses: the logarithm is concave, and the geometric means sum to at most 1.
    vote: the shares of the weighted votes and of one further vote, which is split like the mean of the probabilities.
    It breaks ties and keeps the probability of a class without votes above 0; the loss of the votes alone would be
    infinite and could not be compared. It weighs 1 / M, or less where the votes of two classes are closer than that, so
    that it overturns no majority.
    weights [M] are at least 0 and are scaled to a sum of 1; None gives all members the same weight.
    """
    members = len(logits)
    log_p = at_least_float32(logits).log_softmax(-1)
    weights = log_p.new_ones(members) if weights is None else weights.to(log_p)
    weights = (weights / weights.sum())[:, None, None]
    if how == "logits":
        return (weights * log_p).sum(0).log_softmax(-1)
    mixture = (log_p + weights.log()).logsumexp(0)
    if how == "probabilities":
        return mixture
    votes = log_p.argmax(-1, keepdim=True) == torch.arange(log_p.shape[-1], device=log_p.device)
    shares = (weights * votes).sum(0)
    gaps = shares.sort(-1, descending=True).values.diff().neg()
    gaps = gaps.where(gaps > TIE, 1 / members)  # rounded sums of equal weights are no majority
    further = F.pad(gaps, (0, 1), value=1 / members).amin(-1, keepdim=True)
    return ((shares + further * mixture.exp()) / (1 + further)).log()


def scores(log_probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Scores of predictions [N, C] for labels int64 [N].

    loss: the mean negative log-likelihood. acc: the accuracy, in [0, 1]. ece: the expected calibration error.
    """
    of_labels = log_probabilities.gather(1, labels[:, None])
    correct = log_probabilities.argmax(1) == labels
    ece = calibration_error(log_probabilities.exp().amax(1), correct)
    return {"loss": -of_labels.double().mean().item(), "acc": correct.double().mean().item(), "ece": ece}


def calibration_error(confidence: Tensor, correct: Tensor) -> float:
    """Expected calibration error, in [0, 1], of confidences [N] and of whether each prediction was right, bool [N].

    The mean gap between accuracy and confidence over bins of equal width, weighted by their images (Guo et al. 2017,
    equation 3); bin m holds confidences above (m - 1) / 15 and up to m / 15.
    """
    bins = (confidence.double() * BINS).ceil().long().sub_(1).clamp_(0, BINS - 1)
    gaps = torch.zeros(BINS, dtype=torch.float64, device=confidence.device)
    gaps.index_add_(0, bins, correct.double() - confidence.double())
    return gaps.abs().sum().item() / len(confidence)


def disagreement(logits: Tensor) -> float:
    """The share of images for which the members, logits [M, N, C], do not all predict the same class."""
    classes = logits.argmax(-1)
    return (classes != classes[0]).any(0).double().mean().item()
