"""Outputs: one for each example, also of a batch of one, finite, as many as classes; logits, not probabilities."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athanor.craft.checks.finding import DoesNotApplyError, Finding, judged
from athanor.craft.checks.subject import Subject

FAST = True


def check(subject: Subject) -> Finding:
    inputs, _ = subject.pair
    module = subject.copy().eval()
    with torch.no_grad():
        outputs = subject.outputs(module, inputs)
        try:
            single = module(inputs[:1])
        except Exception as error:
            return Finding(
                "wrong",
                f"a batch of one ends with {type(error).__name__}: {error}".splitlines()[0],
                "look for squeeze() without dim, and for layers that need several examples",
            )
    figure = (
        f"{list(outputs.shape)} {str(outputs.dtype).removeprefix('torch.')}, of a batch of one {list(single.shape)}"
    )
    if len(outputs) != len(inputs) or single.shape != (1, *outputs.shape[1:]):
        return Finding("wrong", figure, "look for squeeze(), view() or flatten() that take in the batch dimension")
    if not outputs.isfinite().all():
        return Finding("wrong", f"{figure}, not finite", "look at the scale of the inputs and of the weights")
    try:
        labels = subject.labels
    except DoesNotApplyError:
        return Finding("ok", figure)
    if outputs.ndim != 2 or labels.max() >= outputs.shape[1]:
        return judged(
            f"{figure}, largest label {labels.max()}",
            wrong=outputs.ndim == 2,
            advice="there are more classes than outputs: look at num_classes",
        )
    return of_logits(subject, module, outputs.float(), labels, figure)


def of_logits(subject: Subject, module: nn.Module, outputs: Tensor, labels: Tensor, figure: str) -> Finding:
    """Whether there was a softmax over the batch, or over the classes before a loss that makes one."""
    is_positive = bool((outputs >= 0).all())
    over_batch, over_classes = (
        is_positive and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)
        for sums in (outputs.sum(0), outputs.sum(1))
    )
    if over_batch and len(outputs) > 1:
        return Finding("wrong", f"{figure}, sums over the batch are 1", "softmax goes over the batch: use dim=1")
    if not over_classes:
        return Finding("ok", figure)
    with torch.no_grad():
        difference = subject.loss(module, (subject.pair[0], labels)) - F.cross_entropy(outputs, labels)
    return judged(
        f"{figure}, probabilities",
        wrong=difference.abs() < 1e-3,
        advice="cross-entropy takes logits and makes a softmax of them: leave out the one of the network",
    )
