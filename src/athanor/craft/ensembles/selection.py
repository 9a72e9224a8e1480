"""Which members an ensemble has and how much each of them counts, chosen on validation images alone."""

import math
from typing import Literal

import torch
from torch import Tensor

from athanor.base.errors import UserError
from athanor.craft.ensembles.combine import How, scores
from athanor.tasks.losses import at_least_float32

Select = Literal["all", "greedy", "top"]
TOP_MEMBERS = 5  # of select=top, where k is not given
ROUNDS = 50  # of greedy selection: a weight is a multiple of 1/50 or coarser


def selection_weights(select: Select, k: int | None, how: How, logits: Tensor, labels: Tensor) -> Tensor:
    """Weights [M], summing to 1, from validation logits [M, N, C] and labels int64 [N]; 0 leaves a member out.

    all: the same weight for each member. top: the same weight for the k members of the lowest loss. greedy: see
    `greedy`. Raises UserError for a k that does not fit, and where there are no validation images to choose by.
    """
    members = len(logits)
    if k is not None and (select != "top" or not 2 <= k <= members):
        raise UserError(f"--k {k}: use 2 to {members}, the number of members, and with --select top only")
    if select == "all":
        return torch.full((members,), 1 / members)
    if not len(labels):
        raise UserError(f"--select {select} needs validation images, and these members have none; use --select all")
    if select == "greedy":
        return greedy(logits, labels, how=how)
    best = torch.tensor(member_losses(logits, labels)).argsort(stable=True)[: k or min(TOP_MEMBERS, members)]
    return torch.zeros(members).index_fill_(0, best, 1 / len(best))


def member_losses(logits: Tensor, labels: Tensor) -> list[float]:
    """The loss of each member alone, from logits [M, N, C] and labels int64 [N]."""
    return [scores(member.log_softmax(-1), labels)["loss"] for member in logits]


def greedy(logits: Tensor, labels: Tensor, rounds: int = ROUNDS, how: How = "probabilities") -> Tensor:
    """Weights [M], summing to 1, by ensemble selection with replacement (Caruana et al. 2004, sections 2 and 2.2).

    Each round adds the member, also one that was added before, that gives the ensemble of logits [M, N, C] the lowest
    loss. The result is the best ensemble after any round, so on these labels it is at least as good as the best
    member. For votes the loss of the mean probabilities is used.
    """
    log_p = at_least_float32(logits).log_softmax(-1)
    if how != "logits":  # the loss needs the probability of the right class only: [M, N], which is C times faster
        log_p = log_p.gather(2, labels.expand(len(log_p), -1)[..., None]).squeeze(2)
    count, total, best_loss, best = torch.zeros(len(log_p), dtype=torch.float64), None, math.inf, None
    for size in range(1, rounds + 1):
        totals = log_p if total is None else total + log_p if how == "logits" else torch.logaddexp(total, log_p)
        losses = torch.stack([loss_of_sum(member, size, labels, how) for member in totals])
        chosen = int(losses.argmin())
        count[chosen] += 1
        total = totals[chosen]
        if losses[chosen] < best_loss:
            best_loss, best = losses[chosen].item(), count / size
    if best is None:
        raise UserError("no member has a finite loss on the validation images; leave out --select greedy")
    return best.float()


def loss_of_sum(total: Tensor, size: int, labels: Tensor, how: How) -> Tensor:
    """The loss of `size` members, of which `total` is the sum: of log-probabilities [N, C] where `how` is logits, else
    the logarithm of the sum of the labels' probabilities, [N].
    """
    if how == "logits":
        mean = total / size
        return (mean.logsumexp(-1) - mean.gather(1, labels[:, None])[:, 0]).mean(dtype=torch.float64)
    return torch.tensor(size, dtype=torch.float64).log() - total.mean(dtype=torch.float64)
