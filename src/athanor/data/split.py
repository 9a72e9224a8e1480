"""Stratified splits: each class gives its share, drawn by a seed that has nothing to do with the training seed."""

import torch
from torch import Tensor


def stratified(labels: Tensor, parts: int | float, seed: int) -> list[Tensor]:
    """Indices of `parts` disjoint folds (int), or of [rest, part] where `parts` is the part's fraction in (0, 1).

    Each class is shuffled by `seed` and dealt out; the indices of each part come back sorted, int64.
    A fraction gives each class at least one image in either part where it has two or more.
    """
    generator = torch.Generator().manual_seed(seed)
    folds: list[list[Tensor]] = [[] for _ in range(parts if isinstance(parts, int) else 2)]
    start = 0  # where the next class begins to be dealt, so that small classes do not all land in fold 0
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
