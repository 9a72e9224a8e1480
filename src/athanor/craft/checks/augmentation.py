"""Validation is read without random changes, and training's changes leave the meaning of a picture as it is."""

import torch

from athanor.craft.checks.finding import Finding, judged, wrong
from athanor.craft.checks.subject import Subject, require_pair
from athanor.data.augmentation.augment import Augment

FAST = True
TILTED = 45  # degrees, beyond which 6 and 9, or N and Z, become each other


def check(subject: Subject) -> Finding:
    loader = subject.loader("val")
    batches = []
    for seed in (1, 2) if loader is not None else ():
        subject.seed_anew(seed)
        # of a data module that is not ours the plain loader, whose random numbers nobody seeds
        batches.append(require_pair(next(iter(getattr(loader, "loader", loader)))))
    for first, second in zip(*batches, strict=True):
        if first.shape != second.shape or not torch.equal(first, second):
            advice = "validation is augmented or shuffled: it needs a transform of its own, without random changes"
            return wrong("validation differs from one reading to the next", advice)
    augment, names = getattr(subject.data, "augment", None), getattr(subject.data, "class_names", ())
    turns = isinstance(augment, Augment) and bool(augment.flip or augment.rotate > TILTED)
    return judged(
        f"validation is the same at each reading; pictures are {'' if turns else 'not '}mirrored or turned far",
        "mirrored or turned digits and letters are others: data.augment.flip=false data.augment.rotate=10",
        suspicious=turns and names and all(len(name) == 1 for name in names),
    )
