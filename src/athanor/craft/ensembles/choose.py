"""Which members an ensemble has, and how much each of them counts: judged on validation images alone."""

from typing import Literal

import torch
from torch import Tensor

from athanor.base.errors import UserError
from athanor.craft.ensembles.combine import How, greedy, scores

Select = Literal["all", "greedy", "top"]
K = 5  # of top, where nothing else is asked for


def losses(logits: Tensor, labels: Tensor) -> list[float]:
    """Of each member [M, N, C] alone."""
    return [scores(member.log_softmax(-1), labels)["loss"] for member in logits]


def weights(select: Select, k: int | None, how: How, logits: Tensor, labels: Tensor) -> Tensor:
    """Weights [M], summing to 1, from validation logits [M, N, C]; a member with 0 is left out.

    all: the same for each. top: the same for the k of the lowest loss. greedy: `combine.greedy`.
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
    best = torch.tensor(losses(logits, labels)).argsort(stable=True)[: k or min(K, members)]
    return torch.zeros(members).index_fill_(0, best, 1 / len(best))
