"""Twenty examples, some of each class, are learned by heart without regularisation and augmentation."""

import math

import torch
from torch import nn

from athanor.craft.checks.finding import DoesNotApplyError, Finding
from athanor.craft.checks.modes import DROPOUT
from athanor.craft.checks.subject import Pair, Subject
from athanor.tasks.task import Task

FAST = False
EXAMPLES = 20
STEPS = 500
FLOOR = 1e-2  # of the loss above its floor, where the targets are classes
SHARE = 0.05  # of the first loss, where they are numbers


def check(subject: Subject) -> Finding:
    if not subject.module.automatic_optimization or len(subject.optimizers) > 1:
        raise DoesNotApplyError("the module has several optimizers, or optimizes by hand")
    if getattr(subject.module, "views", 1) > 1:
        raise DoesNotApplyError("the loss of several views has a floor that depends on them")
    batch = stratified(subject)
    for kind in "configured", "adam":
        first, last, share, steps = learn(subject, batch, kind)
        acc = "" if share is None else f", {share:.0%} right"
        figure = f"loss {first:.4g} to {last:.4g} above its floor{acc} after {steps} steps on {len(batch[0])} examples"
        if is_learned(first, last, share):
            if kind == "configured":
                return Finding("ok", figure)
            advice = "only Adam at 0.001 learns them: look at the optimizer's settings, above all the learning rate"
            return Finding("suspicious", figure, advice)
    return Finding(
        "wrong", figure, "the network cannot learn them by heart: look at loss, gradients, frozen parts and the labels"
    )


def is_learned(first: float, last: float, share: float | None) -> bool:
    if share is None:
        return last < SHARE * first
    return share == 1 and last < max(FLOOR, SHARE * first)


def stratified(subject: Subject) -> Pair:
    """Examples of training without augmentation, as many of each class where there are classes."""
    inputs, targets = subject.examples("train", 5000)
    if targets.dtype == torch.int64 and targets.ndim == 1:
        order = torch.argsort(targets, stable=True)
        first = torch.searchsorted(targets[order].contiguous(), targets[order].contiguous())
        rank = torch.arange(len(targets)) - first  # of an example in its class
        chosen = order[torch.argsort(rank, stable=True)[:EXAMPLES]]
    else:
        chosen = torch.arange(min(EXAMPLES, len(inputs)))
    return subject.trainer.strategy.batch_to_device((inputs[chosen], targets[chosen]))


def learn(subject: Subject, batch: Pair, kind: str) -> tuple[float, float, float | None, int]:
    """First and last loss above the floor, share of right answers where they are classes, and steps."""
    module = subject.copy()
    for part in module.modules():
        if isinstance(part, DROPOUT):
            part.p = 0.0
    loss = getattr(module, "loss", None)
    if hasattr(loss, "label_smoothing"):
        loss.label_smoothing = 0.0
    optimizer = torch.optim.Adam([parameter for _, parameter in subject.trained(module)], 1e-3)
    if kind == "configured":
        optimizer = subject.optimizers_of(module)[0]
    for group in optimizer.param_groups:
        if "weight_decay" in group:
            group["weight_decay"] = 0.0
    losses: list[float] = []
    for step in range(STEPS):
        losses.append(subject.step(module, batch, step, optimizer))
        if not math.isfinite(losses[-1]):
            break
        if losses[-1] < FLOOR / 2:
            break
    return losses[0], losses[-1], share_right(subject, module, batch), len(losses)


@torch.no_grad()
def share_right(subject: Subject, module: nn.Module, batch: Pair) -> float | None:
    inputs, targets = batch
    targets = module.targets_of(inputs, targets) if isinstance(module, Task) else targets
    if targets.dtype != torch.int64:
        return None
    try:
        return (subject.outputs(module, inputs).argmax(1) == targets).float().mean().item()
    except (DoesNotApplyError, IndexError):
        return None
