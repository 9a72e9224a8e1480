"""A picture of the inputs as the network gets them, after augmentation and preprocessing, with their labels."""

import torch
from torch import Tensor

from athanor.base.text import printable
from athanor.craft.checks.finding import DoesNotApplyError, Finding
from athanor.craft.checks.subject import Subject
from athanor.craft.figure import save_figure
from athanor.tasks.task import Task

FAST = False
SHOWN = 16


def check(subject: Subject) -> Finding:
    if subject.folder is None:
        raise DoesNotApplyError("no folder was named for it")
    from matplotlib.figure import Figure  # takes half a second

    inputs, targets = subject.pair
    pictures = before_network(subject, inputs)[:SHOWN].detach().float().cpu()
    if pictures.ndim != 4 or pictures.shape[1] not in (1, 3):
        raise DoesNotApplyError(
            f"an input of the network is {list(pictures.shape[1:])}, and no picture of 1 or 3 channels"
        )
    low, high = pictures.amin((1, 2, 3), keepdim=True), pictures.amax((1, 2, 3), keepdim=True)
    pictures = (pictures - low) / (high - low).clamp_min(1e-9)
    figure = Figure(figsize=(9, 2.7 if len(pictures) <= 8 else 3.2), dpi=120, layout="constrained")
    names = getattr(subject.data, "class_names", ())
    for picture, target, axis in zip(pictures, targets, figure.subplots(2, 8).flat, strict=False):
        axis.imshow(picture.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=1)
        axis.set_title(written(target.cpu(), names), fontsize=8)
    for axis in figure.axes:
        axis.set_axis_off()
    path = save_figure(figure, subject.folder / "inputs.png")
    return Finding("ok", f"{len(pictures)} inputs of the network with their targets: {path}; look whether they fit")


def before_network(subject: Subject, inputs: Tensor) -> Tensor:
    """What the network of a task gets of these inputs; a module of another kind gets them as they are."""
    module, seen = subject.copy().eval(), []
    if not isinstance(module, Task):
        return inputs
    module.network.register_forward_pre_hook(lambda network, got: seen.append(got[0]))
    with torch.no_grad():
        module(inputs)
    return seen[0]


def written(target: Tensor, names: tuple[str, ...]) -> str:
    if target.ndim == 0:
        is_class = not target.is_floating_point() and target < len(names)
        return printable(names[int(target)] if is_class else f"{target.item():.4g}")
    if names and len(target) == len(names):
        return printable(" ".join(f"{names[i]} {target[i]:.0%}" for i in target.float().topk(1).indices))
    return ""
