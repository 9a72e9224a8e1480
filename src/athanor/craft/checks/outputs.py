"""Outputs: one for each example, also of a batch of one, finite, as many as classes; logits, not probabilities."""

import torch
import torch.nn.functional as F
from torch import Tensor

from athanor.craft.checks.finding import DoesNotApplyError, Finding, judged, ok, wrong
from athanor.craft.checks.subject import Subject

FAST = True
TAKES_CLASSES = True


@torch.no_grad()
def check(subject: Subject) -> Finding:
    module, inputs = subject.copy().eval(), subject.pair[0]
    outputs = subject.outputs(module, inputs)
    try:
        single = module(inputs[:1])
    except Exception as error:  # whatever it is: a batch of the length of the training's has worked
        return wrong(f"a batch of one ends with {type(error).__name__}", "look for squeeze() without dim")
    kind = str(outputs.dtype).removeprefix("torch.")
    figure = f"{list(outputs.shape)} {kind}, of a batch of one {list(single.shape)}"
    if len(outputs) != len(inputs) or single.shape != (1, *outputs.shape[1:]):
        return wrong(figure, "look for squeeze(), view() or flatten() that take in the batch dimension")
    if not outputs.isfinite().all():
        return wrong(f"{figure}, not finite", "look at the scale of the inputs and of the weights")
    try:
        labels = subject.labels
    except DoesNotApplyError:
        return ok(figure)
    if outputs.ndim != 2:
        return ok(figure)
    if labels.max() >= outputs.shape[1]:
        return wrong(f"{figure}, largest label {labels.max()}", "labels begin with 0 and end with num_classes - 1")
    if len(outputs) > 1 and are_shares(outputs, 0):
        return wrong(f"{figure}, sums over the batch are 1", "softmax goes over the batch: use dim=1")
    if not are_shares(outputs, 1):
        return ok(figure)
    loss = subject.loss(module, subject.pair) if module.automatic_optimization else torch.inf
    return judged(
        f"{figure}, probabilities",
        "cross-entropy takes logits and makes a softmax of them: leave out the one of the network",
        wrong=abs(loss - F.cross_entropy(outputs, labels)) < 1e-3,
    )


def are_shares(outputs: Tensor, dim: int) -> bool:
    sums = outputs.sum(dim)
    return bool((outputs >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)
