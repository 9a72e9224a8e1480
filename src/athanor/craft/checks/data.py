"""The data: finite inputs that are not constant, labels in range, no class missing, batches that are not sorted."""

import torch
from torch import Tensor

from athanor.craft.checks.finding import Finding, judged
from athanor.craft.checks.subject import Subject, is_pair

FAST = True
MOST_CONSTANT = 0.01  # of the inputs; some data sets have a few empty pictures
IMBALANCE = 100  # of the most frequent class over the rarest
SORTED = 0.5  # of the classes that batches drawn at random would have


def check(subject: Subject) -> Finding:
    inputs, targets = subject.examples("train")
    values = inputs.flatten(1)
    if values.is_floating_point() and not values.isfinite().all():
        count = (~values.isfinite()).any(1).sum()
        return Finding("wrong", f"{count} of {len(values)} inputs have nan or inf", "clean the data where it is read")
    constant = (values == values[:, :1]).all(1).float().mean().item() if values.shape[1] > 1 else 0.0
    least, most = values.min().item(), values.max().item()
    figure = f"{len(inputs)} training inputs, {least:.4g} to {most:.4g}, {constant:.1%} constant"
    if least == most or constant > MOST_CONSTANT:
        advice = "look at how inputs are read and scaled: empty pictures, or integers divided as integers"
        return judged(figure, wrong=constant > 0.5, suspicious=True, advice=advice)
    if targets.dtype != torch.int64 or targets.ndim != 1:
        broken = targets.is_floating_point() and not targets.isfinite().all()
        return judged(figure, wrong=broken, advice="targets have nan or inf")
    return of_classes(subject, targets, figure)


def of_classes(subject: Subject, labels: Tensor, figure: str) -> Finding:
    names = getattr(subject.data, "class_names", ())
    others = [pair[1] for stage in ("val",) if (pair := subject.examples(stage))]
    if labels.min() < 0:
        return Finding("wrong", f"{figure}; a label is {labels.min()}", "labels begin with 0")
    count = max(len(names), *(int(part.max()) + 1 for part in (labels, *others) if len(part)))
    counts = torch.bincount(labels, minlength=count)
    figure = f"{figure}; {counts.min()} to {counts.max()} of each of {count} classes"
    if missing := (counts == 0).nonzero().flatten().tolist():
        told = ", ".join(str(names[i]) if i < len(names) else str(i) for i in missing[:3])
        return Finding(
            "wrong", f"{figure}; none of {told}", "a class is missing from training: look at split and labels"
        )
    share = share_of_classes(subject, counts)
    if share is not None and share < SORTED:
        return Finding(
            "wrong",
            f"{figure}; batches have {share:.0%} of the classes that they would have at random",
            "batches are sorted by class: shuffle the training data",
        )
    is_uneven = counts.max() > IMBALANCE * counts.min()
    return judged(figure, suspicious=is_uneven, advice="classes are uneven: try class weights, and measure macro_f1")


def share_of_classes(subject: Subject, counts: Tensor) -> float | None:
    """Classes in a batch, over the number expected of a batch that is drawn at random; the mean over some batches."""
    labels = [batch[1] for batch in subject.raw_batches if is_pair(batch)]
    if not labels or labels[0].is_floating_point() or len(labels[0]) < 4:
        return None
    odds = counts / counts.sum()
    expected = (1 - (1 - odds) ** len(labels[0])).sum().item()
    return sum(len(part.unique()) for part in labels) / len(labels) / expected
