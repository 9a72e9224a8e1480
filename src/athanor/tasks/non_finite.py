"""Where numbers stopped being finite: run once, when a run fails for it."""

import contextlib
import math
from collections.abc import Iterator
from types import MethodType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from athanor.data.seeds import seed_step

if TYPE_CHECKING:
    from athanor.tasks.classification import Classifier

ABSURD = 1e6  # times the loss of guessing


class Found(Exception):  # noqa: N818  # no error: it ends the forward pass at the place that was looked for
    pass


def first_non_finite(classifier: "Classifier", images: Tensor | None, batch_idx: int) -> str:
    """`first non-finite values: ...`: a parameter, else the first output on the batch that failed.

    images: that batch; None looks at the parameters alone. Never raises, and leaves the model as it was. Every process
    looks for itself: one that has nothing to report would not take part in a collective operation.
    """
    try:
        named = list(classifier.named_parameters())
        broken = [name for name, parameter in named if not parameter.isfinite().all()]
        if broken:
            place = f"parameter {broken[0]} ({len(broken)} of {len(named)} parameters have some)"
        elif images is None:
            return ""
        else:
            place = _first_output(classifier, images, batch_idx)
        return f"first non-finite values: {place}"
    except Exception as error:  # of a model that is somebody's own, on a machine that may have no memory left
        return f"no look at its layers, for {type(error).__name__}"


def absurd(loss: float, num_classes: int) -> str | None:
    """What to say of a loss that is finite, and means nothing."""
    guessing = math.log(max(num_classes, 2))
    if not loss > ABSURD * guessing:
        return None
    return f"warning: the train loss is {loss:.3g}, and guessing gives {guessing:.3g}; try a smaller optim.lr"


def _first_output(classifier: "Classifier", images: Tensor, batch_idx: int) -> str:
    names = {module: name for name, module in classifier.named_modules()}
    watched = [module for part in (classifier.preprocess, classifier.network) for module in part.modules()]

    def look(module: nn.Module, inputs: tuple, output: object) -> None:
        called = f"{names[module]} ({type(module).__name__})"
        if not finite(inputs):  # what came between two modules
            raise Found(f"input of {called}")
        if not finite(output):
            raise Found(f"output of {called}")

    handles = [module.register_forward_hook(look) for module in dict.fromkeys(watched)]
    try:
        with torch.no_grad(), _as_it_was(classifier), torch.compiler.set_stance("force_eager"):
            seed_step(images.device, classifier.seed, classifier.global_rank, classifier.current_epoch, batch_idx)
            classifier(images)
    except Found as found:
        return str(found)
    finally:
        for handle in handles:
            handle.remove()
    return f"the loss itself ({type(classifier.loss).__name__}), of outputs that are finite"


def finite(values: object) -> bool:
    if isinstance(values, Tensor):
        return bool(values.isfinite().all())
    if isinstance(values, dict):
        values = tuple(values.values())
    return not isinstance(values, (list, tuple)) or all(map(finite, values))


@contextlib.contextmanager
def _as_it_was(classifier: "Classifier") -> Iterator[None]:
    """Put back running statistics and random numbers; batch norm over all processes works on this one's images."""
    buffers = {name: buffer.clone() for name, buffer in classifier.network.named_buffers()}
    together = [module for module in classifier.network.modules() if isinstance(module, nn.SyncBatchNorm)]
    for module in together:
        module.forward = MethodType(_BatchNorm.forward, module)
    devices = [classifier.device] if classifier.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        for module in together:
            del module.forward
        for name, buffer in classifier.network.named_buffers():
            buffer.copy_(buffers[name])
