"""No example influences what another one gets, in eval mode."""

import torch

from athanor.craft.checks.finding import DoesNotApplyError, Finding, judged, wrong
from athanor.craft.checks.subject import Subject

FAST = True
MOST = 1e-2  # of the largest output: above it, what differs is no rounding


@torch.no_grad()
def check(subject: Subject) -> Finding:
    module, inputs = subject.copy().eval(), subject.pair[0]
    half = len(inputs) // 2
    if half < 1:
        raise DoesNotApplyError("a batch has one example")
    outputs = subject.outputs(module, inputs)
    if len(outputs) != len(inputs):
        return wrong(f"{len(outputs)} outputs of {len(inputs)} inputs", "look for a view() over the batch dimension")
    alone, turned = subject.outputs(module, inputs[:half]), subject.outputs(module, inputs.flip(0)).flip(0)
    difference = max((outputs[:half] - alone).abs().max(), (outputs - turned).abs().max())
    difference /= outputs.abs().max().clamp_min(1e-12)
    return judged(
        f"{difference:.1e} of the largest output changes with the other examples",
        "examples are mixed: look for a reshape, softmax or mean that takes in the batch dimension",
        wrong=difference > MOST,
    )
