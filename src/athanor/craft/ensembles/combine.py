"""Predictions of several classifiers as one, and what such a prediction is worth. Tensors in, tensors out."""

from typing import Literal

import torch
from torch import Tensor

from athanor.tasks.losses import at_least_float32

How = Literal["probabilities", "logits", "vote"]
BINS = 15  # of the confidence
ROUNDS = 50  # of greedy selection: a weight is a multiple of 1/50 or coarser


def combined(logits: Tensor, how: How = "probabilities", weights: Tensor | None = None) -> Tensor:
    """Log-probabilities [N, C] of an ensemble from its members' logits [M, N, C].

    probabilities: the weighted mean of the members' probabilities (deep ensembles, Lakshminarayanan et al. 2017,
    section 2.4). logits: their weighted geometric mean, normalised. The loss of either is at most the weighted mean of
    the members' losses, as log is concave, and as the geometric means sum to at most 1.
    vote: the shares of M votes and of one further vote, split like the mean of the probabilities. It breaks ties, and a
    class without a vote keeps a probability above 0: a loss of the votes alone would be infinite and mean nothing.
    weights [M] are at least 0 and are scaled to a sum of 1; None weighs all alike.
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
    ballots = log_p.argmax(-1, keepdim=True) == torch.arange(log_p.shape[-1], device=log_p.device)
    return (((weights * ballots).sum(0) * members + mixture.exp()) / (members + 1)).log()


def scores(log_probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """loss (mean negative log-likelihood), acc and ece of predictions [N, C] for labels int64 [N]."""
    chosen = log_probabilities.gather(1, labels[:, None])
    correct = log_probabilities.argmax(1) == labels
    ece = calibration_error(log_probabilities.exp().amax(1), correct)
    return {"loss": -chosen.double().mean().item(), "acc": correct.double().mean().item(), "ece": ece}


def calibration_error(confidence: Tensor, correct: Tensor) -> float:
    """Expected calibration error, in [0, 1], of confidences [N] and of whether each was right, bool [N].

    The mean gap between accuracy and confidence over bins of equal width, weighted by their images (Guo et al. 2017,
    equation 3); bin m holds confidences above (m - 1) / 15 and up to m / 15.
    """
    bins = (confidence.double() * BINS).ceil().long().sub_(1).clamp_(0, BINS - 1)
    gaps = torch.zeros(BINS, dtype=torch.float64, device=confidence.device)
    gaps.index_add_(0, bins, correct.double() - confidence.double())
    return gaps.abs().sum().item() / len(confidence)


def disagreement(logits: Tensor) -> float:
    """The share of images for which not all members [M, N, C] name the same class."""
    classes = logits.argmax(-1)
    return (classes != classes[0]).any(0).double().mean().item()


def greedy(logits: Tensor, labels: Tensor, rounds: int = ROUNDS, how: How = "probabilities") -> Tensor:
    """Weights [M], summing to 1, by ensemble selection with replacement (Caruana et al. 2004, sections 2 and 2.2).

    Each round adds the member, which may be in already, that gives the ensemble of logits [M, N, C] the lowest loss.
    What was best after any round is taken, so it is at least as good on these labels as the best member. Votes are
    chosen for by the loss of their probabilities.
    """
    log_p = at_least_float32(logits).log_softmax(-1)
    if how != "logits":  # all that the loss asks for is the probability of the right class: [M, N], and C times faster
        log_p = log_p.gather(2, labels.expand(len(log_p), -1)[..., None]).squeeze(2)
    count, total, best = torch.zeros(len(log_p), dtype=torch.float64), None, (float("inf"), None)
    for size in range(1, rounds + 1):
        totals = log_p if total is None else total + log_p if how == "logits" else torch.logaddexp(total, log_p)
        losses = torch.stack([loss_of(member, size, labels, how) for member in totals])
        chosen = int(losses.argmin())
        count[chosen] += 1
        total = totals[chosen]
        if losses[chosen] < best[0]:
            best = losses[chosen].item(), count / size
    if best[1] is None:
        raise ValueError("no member has a finite loss on these images")
    return best[1].float()


def loss_of(total: Tensor, size: int, labels: Tensor, how: How) -> Tensor:
    """Of `size` members: summed log-probabilities [N, C] if how is logits, else the log of summed ones, [N]."""
    if how == "logits":
        mean = total / size
        return (mean.logsumexp(-1) - mean.gather(1, labels[:, None])[:, 0]).mean(dtype=torch.float64)
    return torch.tensor(size, dtype=torch.float64).log() - total.mean(dtype=torch.float64)
