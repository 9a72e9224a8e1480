"""How long an item of a torch Dataset takes: read by Athanor, whose items are seeded, and by a bare DataLoader."""

import argparse
import random
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from athanor.data.streamed import Items
from contenders import task

BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, kind in {"path": str, "items": int, "workers": int, "draws": str}.items():
        parser.add_argument(f"--{name}", type=kind, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset = Drawing(options.items, options.draws)
    passes = streamed(dataset, options.workers) if options.path == "athanor" else bare(dataset, options.workers)
    next(passes)  # starts the workers
    started = time.perf_counter()
    next(passes)
    task.write_report({"us_per_item": 1e6 * (time.perf_counter() - started) / options.items})


class Drawing(Dataset):
    """Items of 8 numbers, to which random ones are added."""

    def __init__(self, count: int, draws: str) -> None:
        self.targets = [0] * count
        self.draws_all = draws == "all"

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        noise = torch.rand(8)
        return (noise + random.random() + np.random.rand() if self.draws_all else noise), 0


def streamed(dataset: Dataset, workers: int) -> Iterator[int]:
    """Each pass over the items gives their number."""
    items = Items(dataset, "train", workers)
    for epoch in range(2):
        parts = torch.randperm(len(dataset)).split(BATCH)
        yield sum(len(inputs) for _, inputs, _ in items.batches(iter(parts), 0, epoch))
    items.close()


def bare(dataset: Dataset, workers: int) -> Iterator[int]:
    loader = DataLoader(dataset, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    for _ in range(2):
        yield sum(len(inputs) for inputs, _ in loader)


if __name__ == "__main__":
    main()
