"""No example of validation or test is among those of training: the same bytes, or mirrored; no group is in both."""

from collections import Counter

import torch
from torch import Tensor

from athanor.craft.checks.finding import DoesNotApplyError, Finding, judged
from athanor.craft.checks.subject import Subject
from athanor.data.module import ArrayData

FAST = True
WRONG = 0.01  # share of validation or test
MOST = 200_000  # inputs of a stage that are compared


def check(subject: Subject) -> Finding:
    train, _ = subject.examples("train", MOST)
    if train.dtype == torch.int64 or train[0].numel() < 2:
        raise DoesNotApplyError("inputs of so few values are equal by chance")
    if shared := shared_groups(subject):
        return Finding("wrong", shared, "examples of one group have to be on one side: give the groups to the split")
    counts = Counter(contents(train))
    doubled = sum(counts.values()) - len(counts)
    figures, worst = [f"{doubled} duplicates within train"], 0.0
    for stage in "val", "test":
        if (pair := subject.examples(stage, MOST)) is None:
            continue
        names = [[i for i, key in enumerate(contents(view)) if key in counts] for view in views(pair[0])]
        found = sorted(set().union(*names))
        worst = max(worst, len(found) / len(pair[0]))
        named = f" ({', '.join(map(str, found[:3]))})" if found else ""
        figures.append(f"{len(names[0])} of {stage} in train, mirrored {len(set(found) - set(names[0]))}{named}")
    if len(figures) == 1:
        raise DoesNotApplyError("there is neither validation nor test")
    return judged(
        "; ".join(figures),
        wrong=worst > WRONG,
        suspicious=worst > 0,
        advice="what is evaluated on was trained on: remove the duplicates, by content, before the split",
    )


def contents(inputs: Tensor) -> list[bytes]:
    """The bytes of each input that is not constant."""
    rows = inputs.flatten(1).contiguous().numpy()
    return [row.tobytes() for row in rows if (row != row[0]).any()]


def views(inputs: Tensor) -> list[Tensor]:
    """The inputs, and pictures mirrored."""
    return [inputs, inputs.flip(-1)] if inputs.ndim == 4 else [inputs]


def shared_groups(subject: Subject) -> str:
    groups = subject.data.source.groups if isinstance(subject.data, ArrayData) else None
    if groups is None or subject.data.source.val_inputs is not None:
        return ""
    both = set(groups[subject.data.train_index].tolist()) & set(groups[subject.data.val_index].tolist())
    return f"{len(both)} groups are in train and in validation: {', '.join(map(str, sorted(both)[:3]))}" if both else ""
