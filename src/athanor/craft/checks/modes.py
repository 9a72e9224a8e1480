"""Train and eval mode differ where they should: dropout is off in eval mode, statistics are not touched there."""

import torch
from torch import nn

from athanor.craft.checks.finding import Finding
from athanor.craft.checks.subject import Subject
from athanor.models.batch_norm import BatchNorm

FAST = True
DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def check(subject: Subject) -> Finding:
    trained = {id(parameter) for _, parameter in subject.trained(subject.module)}
    asleep = []
    for name, part in subject.module.named_modules():
        is_trained = any(id(parameter) in trained for parameter in part.parameters(recurse=False))
        is_norm = isinstance(part, BatchNorm) and (is_trained or not part.affine)
        if not part.training and (
            is_norm or (isinstance(part, DROPOUT) and part.p > 0 and not has_frozen(subject, part))
        ):
            asleep.append(name)
    if asleep:
        return Finding(
            "wrong",
            f"{', '.join(asleep[:3])} in eval mode in training",
            "somebody called eval() and nobody train(): Lightning leaves modes as they are",
        )
    module = subject.copy().eval()
    awake = [name for name, part in module.named_modules() if part.training]
    if awake:
        advice = "a train() of your own does not hand the mode on"
        return Finding("wrong", f"{', '.join(awake[:3])} in train mode after eval()", advice)
    return compare(subject, module)


def has_frozen(subject: Subject, part: nn.Module) -> bool:
    return any(part is each for frozen in getattr(subject.module, "frozen_parts", []) for each in frozen.modules())


def compare(subject: Subject, module: nn.Module) -> Finding:
    inputs, _ = subject.pair
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with torch.no_grad():
        subject.seed_anew(1)
        first = subject.outputs(module, inputs)
        subject.seed_anew(2)
        second = subject.outputs(module, inputs)
    difference = (first - second).abs().max() / first.abs().max().clamp_min(1e-12)
    changed = [name for name, buffer in module.named_buffers() if not torch.equal(buffer, before[name])]
    if difference > 1e-3:
        return Finding(
            "wrong",
            f"two passes in eval mode differ by {difference:.1e} of the largest output",
            "something is random in eval mode: give training=self.training to F.dropout, and draw noise in training",
        )
    if changed:
        return Finding(
            "wrong",
            f"{changed[0]} changes in eval mode",
            "statistics are updated in evaluation: ask self.training first",
        )
    return Finding("ok", "two passes in eval mode are equal, and change no statistics")
