"""No example influences what another one gets, in eval mode."""

import torch

from athanor.craft.checks.finding import DoesNotApplyError, Finding, judged
from athanor.craft.checks.subject import Subject

FAST = True
MOST = 1e-2  # of the largest output: above it, what differs is no rounding


def check(subject: Subject) -> Finding:
    inputs, _ = subject.pair
    half = len(inputs) // 2
    if half < 1:
        raise DoesNotApplyError("a batch has one example")
    module = subject.copy().eval()
    with torch.no_grad():
        outputs = subject.outputs(module, inputs)
        if len(outputs) != len(inputs):
            return Finding(
                "wrong", f"{len(outputs)} outputs of {len(inputs)} inputs", "look for a view() over the batch dimension"
            )
        alone = subject.outputs(module, inputs[:half])
        turned = subject.outputs(module, inputs.flip(0)).flip(0)
    scale = outputs.abs().max().clamp_min(1e-12)
    difference = max((outputs[:half] - alone).abs().max(), (outputs - turned).abs().max()) / scale
    return judged(
        f"{difference:.1e} of the largest output changes with the other examples",
        wrong=difference > MOST,
        advice="examples are mixed: look for a reshape or transpose that takes in the batch dimension, a softmax "
        "or a mean over dim 0, and for normalisation over the batch in eval mode",
    )
