"""A picture of the inputs as the network gets them, after augmentation and preprocessing, with their labels."""

import torch
from torch import Tensor

from athanor.craft.checks.finding import DoesNotApplyError, Finding, ok
from athanor.craft.checks.subject import Subject
from athanor.craft.figure import save_figure
from athanor.tasks.task import Task

FAST = False
SHOWN = 16


def check(subject: Subject) -> Finding:
    if subject.folder is None:
        raise DoesNotApplyError("no folder was named for it")
    from matplotlib.figure import Figure  # takes half a second

    pictures = before_network(subject)[:SHOWN].float().cpu()
    if pictures.ndim != 4 or pictures.shape[1] not in (1, 3):
        raise DoesNotApplyError(f"an input of the network is {list(pictures.shape[1:])}, no picture of 1 or 3 channels")
    low, high = pictures.amin((1, 2, 3), keepdim=True), pictures.amax((1, 2, 3), keepdim=True)
    pictures = (pictures - low) / (high - low).clamp_min(1e-9)
    figure, names = Figure(figsize=(9, 3.2), dpi=120, layout="constrained"), getattr(subject.data, "class_names", ())
    for picture, target, axis in zip(pictures, subject.pair[1].cpu(), figure.subplots(2, 8).flat, strict=False):
        axis.imshow(picture.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=1)
        is_share = target.ndim == 1 and len(target) == len(names)  # of each class, or an attribute
        value = target.argmax() if is_share else target
        is_class = bool(names) and value.ndim == 0 and not value.is_floating_point()
        axis.set_title(names[value] if is_class else f"{[round(v, 3) for v in value.flatten().tolist()]}", fontsize=8)
    for axis in figure.axes:
        axis.set_axis_off()
    path = save_figure(figure, subject.folder / "inputs.png")
    return ok(f"{len(pictures)} inputs of the network with their targets: {path}; look whether they fit")


@torch.no_grad()
def before_network(subject: Subject) -> Tensor:
    """What the network of a task gets of `batch`; a module of another kind gets it as it is."""
    module, seen = subject.copy().eval(), []
    if not isinstance(module, Task):
        return subject.pair[0]
    module.network.register_forward_pre_hook(lambda network, inputs: seen.append(inputs[0]))
    module(subject.pair[0])
    return seen[0]
