"""Which images are trained on, validated on or left out. Where targets are classes, each class gives its share.

All are drawn by `seed`, which is data.split_seed and independent of the training seed.
"""

import numpy as np
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


def grouped(labels: Tensor, groups: Tensor, parts: int | float, seed: int) -> list[Tensor]:
    """As `stratified`, where all inputs of a group come into one part. labels, groups: int64 [N].

    The largest group is dealt first, each to the part that then comes nearest to its share of each class (the smallest
    sum of squared deviations, each relative to the size of the class), so shares are met as well as groups allow.
    Raises UserError where there are fewer groups than parts.
    """
    shares = np.full(parts, 1 / parts) if isinstance(parts, int) else np.array([1 - parts, parts])
    members = group_members(groups, seed)
    if len(members) < len(shares):
        raise UserError(f"{len(members)} groups of inputs cannot be dealt to {len(shares)} parts; use fewer parts")
    classes, counts = np.unique(labels.numpy(), return_inverse=True, return_counts=True)[1:]
    # what each part lacks of each class, and in the last column of all inputs, so that no part stays empty
    lacking = np.outer(shares, [*counts, len(labels)]).astype(np.float64)
    weights = 1 / np.array([*counts, len(labels)], dtype=np.float64) ** 2
    dealt: list[list[np.ndarray]] = [[] for _ in shares]
    for index in members:
        own = np.bincount(classes[index], minlength=len(counts) + 1)
        own[-1] = len(index)
        part = int((lacking @ (own * weights)).argmax())
        lacking[part] -= own
        dealt[part].append(index)
    if not dealt[-1]:  # a fraction that is smaller than half of the smallest group
        dealt[-1].append(dealt[0].pop())
    return [torch.from_numpy(np.sort(np.concatenate(part))) for part in dealt]


def group_members(groups: Tensor, seed: int) -> list[np.ndarray]:
    """The indices of each group, the largest group first, those of one size in an order that the seed draws."""
    order = groups.argsort(stable=True)
    sizes = groups.unique(return_counts=True)[1]
    members = order.split(sizes.tolist())
    shuffled = torch.randperm(len(members), generator=torch.Generator().manual_seed(seed)).tolist()
    return [members[i].numpy() for i in sorted(shuffled, key=lambda i: -len(members[i]))]


def latest(times: Tensor, fraction: float) -> list[Tensor]:
    """Indices of the earlier inputs and of the latest, about `fraction` of all; those of one time stay together.

    Raises UserError where all have one time.
    """
    first = times.sort().values[len(times) - max(round(len(times) * fraction), 1)]
    is_late = times >= first
    if is_late.all():
        is_late = times > first
    require(is_late.any(), "all training inputs have the same time, so none are later than others; leave out the times")
    return [(~is_late).nonzero().flatten(), is_late.nonzero().flatten()]


def split(
    targets: Tensor, parts: int | float, seed: int, groups: Tensor | None = None, times: Tensor | None = None
) -> list[Tensor]:
    """Indices of `parts` folds (int) or of [rest, part] (a fraction): by groups or times where they are given, else
    stratified. Raises UserError for folds of inputs with times.
    """
    if times is not None:
        require(
            isinstance(parts, float),
            "data.folds: this data is ordered in time, and folds would validate on inputs "
            "that are older than those trained on; use data.folds=null and data.val_fraction",
        )
        return latest(times, parts)
    labels = classes_of(targets)
    return stratified(labels, parts, seed) if groups is None else grouped(labels, groups, parts, seed)


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


def train_and_val(
    targets: Tensor,
    val_fraction: float,
    folds: int | None,
    fold: int,
    seed: int,
    groups: Tensor | None = None,
    times: Tensor | None = None,
) -> list[Tensor]:
    """Indices of training and of validation images: fold `fold` of `folds`, or the fraction where folds is None.

    groups, times: of the inputs, as in a Source.
    Raises UserError for a fraction outside [0, 1) and for folds that do not exist.
    """
    if folds is not None:
        if folds < 2 or not 0 <= fold < folds:
            raise UserError(f"data.folds={folds} data.fold={fold}: use 2 or more folds and a fold from 0 to folds-1")
        require(folds <= len(targets), f"data.folds={folds}: there are {len(targets)} training images; use fewer folds")
        parts = split(targets, folds, seed, groups, times)
        val = parts.pop(fold)
        return [torch.cat(parts).sort().values, val]
    if not 0 <= val_fraction < 1:
        raise UserError(f"data.val_fraction={val_fraction} is not a fraction; use 0 (no validation) to below 1")
    if val_fraction == 0:
        return [torch.arange(len(targets)), torch.arange(0)]
    return split(targets, float(val_fraction), seed, groups, times)
