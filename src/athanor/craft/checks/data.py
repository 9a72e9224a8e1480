"""The data: finite inputs that are not constant, labels in range, no class missing, batches that are not sorted."""

import torch
from torch import Tensor

from athanor.craft.checks.finding import Finding, judged, wrong
from athanor.craft.checks.subject import Subject, is_pair
from athanor.data.module import ArrayData

FAST = True
CONSTANT = (0.01, 0.5)  # share of the inputs: suspicious, wrong; some data sets have a few empty pictures
IMBALANCE = 100  # of the most frequent class over the rarest
SORTED = 0.5  # of the classes that batches drawn at random would have


def check(subject: Subject) -> Finding:
    inputs, targets = subject.examples("train")
    for name, values in ("inputs", inputs), ("targets", targets):
        if values.is_floating_point() and (count := (~values.isfinite()).flatten(1).any(1).sum()):
            return wrong(f"{count} of {len(values)} {name} have nan or inf", "clean the data where it is read")
    values = inputs.flatten(1)
    constant = (values == values[:, :1]).all(1).float().mean().item() if values.shape[1] > 1 else 0.0
    figure = f"{len(inputs)} training inputs, {values.min():.4g} to {values.max():.4g}, {constant:.1%} constant"
    if constant > CONSTANT[0] or targets.dtype != torch.int64 or targets.ndim != 1:
        advice = "look at how inputs are read and scaled: empty pictures, or integers divided as integers"
        return judged(figure, advice, wrong=constant > CONSTANT[1], suspicious=constant > CONSTANT[0])
    return of_classes(subject, targets, figure)


def of_classes(subject: Subject, labels: Tensor, figure: str) -> Finding:
    names, val = getattr(subject.data, "class_names", ()), subject.examples("val")
    if labels.min() < 0:
        return wrong(f"{figure}; a label is {labels.min()}", "labels begin with 0")
    counts = torch.bincount(labels, minlength=max(len(names), int(val[1].max()) + 1 if val else 0))
    figure = f"{figure}; {counts.min()} to {counts.max()} of each of {len(counts)} classes"
    if missing := (counts == 0).nonzero().flatten().tolist():
        told = ", ".join(names[i] if i < len(names) else str(i) for i in missing[:3])
        is_sample = not isinstance(subject.data, ArrayData) or len(labels) < len(subject.data.train_index)
        advice = "a class is missing from training: look at split and labels"
        return judged(f"{figure}; none of {told}", advice, wrong=not is_sample, suspicious=True)
    batches = [batch[1] for batch in subject.raw_batches if is_pair(batch)]
    if batches and batches[0].ndim == 1:
        # classes in a batch, over the number expected of one that is drawn at random
        drawn = sum((1 - (1 - counts / counts.sum()) ** len(part)).sum().item() for part in batches)
        share = sum(len(part.unique()) for part in batches) / drawn
        if share < SORTED:
            figure = f"{figure}; batches have {share:.0%} of the classes that they would have at random"
            return wrong(figure, "batches are sorted by class: shuffle the training data")
    advice = "classes are uneven: try class weights, and measure macro_f1"
    return judged(figure, advice, suspicious=counts.max() > IMBALANCE * counts.min())
