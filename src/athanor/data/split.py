"""Which images are trained on, validated on or left out. Where targets are classes, each class gives its share.

All are drawn by `seed`, which is data.split_seed and independent of the training seed.
"""

import torch
from torch import Tensor

from athanor.base.errors import UserError, require


def stratified(labels: Tensor, parts: int | float, seed: int) -> list[Tensor]:
    """Indices of `parts` disjoint folds (int), or of [rest, part] where `parts` is the part's fraction in (0, 1).

    labels: int64 [N]. Each class is shuffled and dealt out; the indices of each part come back sorted, int64.
    A fraction gives each class at least one image in either part where it has two or more.
    """
    generator = torch.Generator().manual_seed(seed)
    folds: list[list[Tensor]] = [[] for _ in range(parts if isinstance(parts, int) else 2)]
    start = 0  # the fold that gets the next class's first image; always 0 would put all small classes into fold 0
    for label in labels.unique():
        index = (labels == label).nonzero().flatten()
        index = index[torch.randperm(len(index), generator=generator)]
        if isinstance(parts, int):
            for i in range(parts):
                folds[(start + i) % parts].append(index[i::parts])
            start += len(index) % parts
        else:
            cut = min(max(round(len(index) * parts), 1), len(index) - 1)
            folds[0].append(index[cut:])
            folds[1].append(index[:cut])
    return [torch.cat(fold).sort().values for fold in folds]


def classes_of(targets: Tensor) -> Tensor:
    """Targets by which images are stratified, int64 [N]: class indices as they are, others as one class."""
    return targets if targets.dtype == torch.int64 and targets.ndim == 1 else torch.zeros(len(targets)).long()


def limited(targets: Tensor, limit: int | None, seed: int) -> Tensor:
    """Indices of all images, or of about `limit` of them; UserError where that is less than two a class."""
    if limit is None or limit >= len(targets):
        return torch.arange(len(targets))
    labels = classes_of(targets)
    if limit < 2 * len(labels.unique()):
        raise UserError(f"data.limit={limit} is too few for {len(labels.unique())} classes; use at least two a class")
    return stratified(labels, limit / len(labels), seed)[1]


def train_and_val(targets: Tensor, val_fraction: float, folds: int | None, fold: int, seed: int) -> list[Tensor]:
    """Indices of training and of validation images: fold `fold` of `folds`, or the fraction where folds is None.

    Raises UserError for a fraction outside [0, 1) and for folds that do not exist.
    """
    labels = classes_of(targets)
    if folds is not None:
        if folds < 2 or not 0 <= fold < folds:
            raise UserError(f"data.folds={folds} data.fold={fold}: use 2 or more folds and a fold from 0 to folds-1")
        require(folds <= len(labels), f"data.folds={folds}: there are {len(labels)} training images; use fewer folds")
        parts = stratified(labels, folds, seed)
        val = parts.pop(fold)
        return [torch.cat(parts).sort().values, val]
    if not 0 <= val_fraction < 1:
        raise UserError(f"data.val_fraction={val_fraction} is not a fraction; use 0 (no validation) to below 1")
    if val_fraction == 0:
        return [torch.arange(len(labels)), torch.arange(0)]
    return stratified(labels, val_fraction, seed)
