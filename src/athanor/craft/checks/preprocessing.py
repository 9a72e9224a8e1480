"""What the first layer gets has a sensible scale, and the statistics of preprocessing are those of the train split."""

import copy

import torch
from torch import Tensor, nn

from athanor.craft.checks.finding import DoesNotApplyError, Finding, judged, ok
from athanor.craft.checks.subject import LAYERS, Subject
from athanor.data.module import ArrayData
from athanor.data.preprocess import Preprocess
from athanor.data.streamed import Items

FAST = True
BYTES = 2**30  # of training inputs, from which statistics are computed again
LEAST, MOST = (0.02, 0.002), (10, 100)  # of mean and deviation of what the first layer gets: suspicious, wrong
OTHER = (1e-4, 0.2)  # relative difference of statistics: suspicious, wrong


def check(subject: Subject) -> Finding:
    first = first_layer_input(subject)
    std, size = first.std().item(), max(first.std().item(), first.mean().abs().item())
    figure = f"the first layer gets {first.mean():.3g} +- {std:.3g}"
    if std < LEAST[0] or size > MOST[0]:
        advice = "pixels are not normalised, normalised twice, or with the statistics of other data"
        return judged(figure, advice, wrong=std < LEAST[1] or size > MOST[1], suspicious=True)
    if (difference := from_fitted(subject)) is None:
        return ok(figure)
    return judged(
        f"{figure}; statistics differ by {difference:.1e} from those of the train split",
        "statistics come from other data than the train split: of all images, or of another data set",
        wrong=difference > OTHER[1],
        suspicious=difference > OTHER[0],
    )


def first_layer_input(subject: Subject) -> Tensor:
    """What the first layer with weights gets of a batch of training."""
    module, seen = subject.copy(), []
    for part in module.modules():
        if isinstance(part, (*LAYERS, nn.Embedding)):
            part.register_forward_pre_hook(lambda part, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        subject.loss(module, subject.batch) if module.automatic_optimization else module(subject.pair[0])
    if not seen or not seen[0].is_floating_point():
        raise DoesNotApplyError("no linear or convolutional layer gets the inputs")
    return seen[0].float()


def from_fitted(subject: Subject) -> float | None:
    """The largest relative difference of the buffers of our preprocessing from those that the train split gives; None
    where there are none, or where that would take long.
    """
    preprocess = getattr(subject.module, "preprocess", None)
    is_ours = isinstance(preprocess, Preprocess) and isinstance(subject.data, ArrayData)
    if not is_ours or not list(preprocess.buffers()):
        return None
    fitted, inputs = copy.deepcopy(preprocess).cpu(), subject.data.source.train_inputs
    if isinstance(inputs, Items) or inputs.nbytes > BYTES:
        return None
    fitted.fit(inputs, subject.data.train_index)
    pairs = zip(preprocess.buffers(), fitted.buffers(), strict=True)
    return max(((a.cpu() - b).abs().max() / b.abs().max().clamp_min(1e-6)).item() for a, b in pairs)
