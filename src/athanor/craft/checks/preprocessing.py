"""What the first layer gets has a sensible scale, and the statistics of preprocessing are those of the train split."""

import copy

import torch
from torch import Tensor, nn

from athanor.craft.checks.finding import DoesNotApplyError, Finding, judged
from athanor.craft.checks.subject import Subject
from athanor.data.module import ArrayData
from athanor.data.preprocess import Preprocess
from athanor.data.streamed import Items, statistics_index

FAST = True
LEAST, MOST, FAR = 0.02, 10, 100  # of the deviation of what the first layer gets: suspicious, and above FAR wrong
OTHER, ANOTHER = 1e-4, 0.2  # relative difference of statistics: suspicious, wrong


def check(subject: Subject) -> Finding:
    first = first_layer_input(subject)
    mean, std = first.mean().item(), first.std().item()
    figure = f"the first layer gets {mean:.3g} +- {std:.3g}"
    if not LEAST < std < MOST or abs(mean) > MOST:
        return judged(
            figure,
            wrong=std > FAR or abs(mean) > FAR or std < LEAST / 10,
            suspicious=True,
            advice="pixels are not normalised, normalised twice, or with the statistics of other data",
        )
    difference = from_fitted(subject)
    if difference is None:
        return Finding("ok", figure)
    return judged(
        f"{figure}; statistics differ by {difference:.1e} from those of the train split",
        wrong=difference > ANOTHER,
        suspicious=difference > OTHER,
        advice="statistics come from other data than the train split: of all images, or of another data set",
    )


def first_layer_input(subject: Subject) -> Tensor:
    """What the first layer with weights gets of a batch of training."""
    module, seen = subject.copy(), []
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            part.register_forward_pre_hook(lambda part, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        subject.loss(module.eval(), subject.batch) if module.automatic_optimization else module(subject.pair[0])
    if not seen:
        raise DoesNotApplyError("the module has no linear or convolutional layers")
    if any(isinstance(part, nn.Embedding) for part in module.modules()):
        raise DoesNotApplyError("the inputs are indices, which have no scale")
    return seen[0].float()


def from_fitted(subject: Subject) -> float | None:
    """The largest relative difference of the buffers of our preprocessing from those that the train split gives."""
    preprocess = getattr(subject.module, "preprocess", None)
    if not (isinstance(preprocess, Preprocess) and isinstance(subject.data, ArrayData) and list(preprocess.buffers())):
        return None
    fitted, inputs = copy.deepcopy(preprocess).cpu(), subject.data.source.train_inputs
    if not isinstance(inputs, Items) and inputs.nbytes > 2**30:
        return None
    fitted.fit(inputs, statistics_index(inputs, subject.data.train_index))
    pairs = zip(preprocess.buffers(), fitted.buffers(), strict=True)
    return max(((a.cpu() - b).abs().max() / b.abs().max().clamp_min(1e-6)).item() for a, b in pairs)
