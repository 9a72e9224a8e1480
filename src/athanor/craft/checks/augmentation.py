"""Validation is read without random changes, and training's changes leave the meaning of a picture as it is."""

from itertools import islice

import torch

from athanor.craft.checks.finding import DoesNotApplyError, Finding, judged
from athanor.craft.checks.subject import Subject, is_pair
from athanor.data.any_data_module import AnyDataModule
from athanor.data.augment import Augment

FAST = True
TILTED = 45  # degrees, beyond which 6 and 9, or N and Z, become each other


def check(subject: Subject) -> Finding:
    loader = subject.loader("val")
    figure = "there is no validation"
    if loader is not None:
        batches = []
        for seed in 1, 2:
            subject.seed_anew(seed)
            # of a data module that is not ours the plain loader, whose random numbers nobody seeds
            plain = loader.loader if isinstance(subject.data, AnyDataModule) and hasattr(loader, "loader") else loader
            batches.append(next(islice(iter(plain), 1), None))
        if not all(map(is_pair, batches)):
            raise DoesNotApplyError("batches are no pairs of inputs and targets")
        (first, labels), (second, other) = batches
        if first.shape != second.shape or not (torch.equal(first, second) and torch.equal(labels, other)):
            advice = "validation is augmented or shuffled: it needs a transform of its own, without random changes"
            return Finding("wrong", "validation differs from one reading to the next", advice)
        figure = "validation is the same at each reading"
    augment = getattr(subject.data, "augment", None)
    names = getattr(subject.data, "class_names", ())
    has_signs = bool(names) and all(len(name) == 1 for name in names)  # digits and letters
    changes = isinstance(augment, Augment) and (augment.flip or augment.rotate > TILTED)
    return judged(
        figure + (", pictures are flipped" if changes else ""),
        suspicious=has_signs and changes and subject.batch[0].ndim == 4,
        advice="mirrored or turned digits and letters are others: data.augment.flip=false data.augment.rotate=10",
    )
