"""Train and eval mode differ where they should: dropout is off in eval mode, statistics are not touched there."""

import torch
from torch import nn

from athanor.craft.checks.finding import Finding, ok, wrong
from athanor.craft.checks.subject import DROPOUT, Subject
from athanor.models.batch_norm import BatchNorm

FAST = True


def check(subject: Subject) -> Finding:
    if asleep := asleep_in_training(subject.module):
        advice = "somebody called eval() and nobody train(): Lightning leaves modes as they are"
        return wrong(f"{', '.join(asleep[:3])} in eval mode in training", advice)
    module = subject.copy().eval()
    if awake := [name for name, part in module.named_modules() if part.training]:
        return wrong(f"{', '.join(awake[:3])} in train mode after eval()", "a train() of your own drops the mode")
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    results = []
    with torch.no_grad():
        for seed in 1, 2:
            subject.seed_anew(seed)
            results.append(subject.outputs(module, subject.pair[0]))
    difference = (results[0] - results[1]).abs().max() / results[0].abs().max().clamp_min(1e-12)
    if difference > 1e-3:
        advice = "something is random in eval mode: give training=self.training to F.dropout, draw noise in training"
        return wrong(f"two passes in eval mode differ by {difference:.1e} of the largest output", advice)
    if changed := [name for name, buffer in module.named_buffers() if not torch.equal(buffer, before[name])]:
        return wrong(f"{changed[0]} changes in eval mode", "statistics are updated there: ask self.training first")
    return ok("two passes in eval mode are equal, and change no statistics")


def asleep_in_training(module: nn.Module) -> list[str]:
    """Batch norm with trained weights, and dropout, in eval mode in training, outside of what a setting has frozen."""
    frozen = {id(each) for part in getattr(module, "frozen_parts", []) for each in part.modules()}
    asleep = []
    for name, part in module.named_modules():
        own = list(part.parameters(recurse=False))
        is_norm = isinstance(part, BatchNorm) and (not own or any(parameter.requires_grad for parameter in own))
        is_dropout = isinstance(part, DROPOUT) and part.p > 0
        if not part.training and (is_norm or is_dropout) and id(part) not in frozen:
            asleep.append(name)
    return asleep
