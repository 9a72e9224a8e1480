"""The data path alone: shuffled, augmented, standardised float32 batches on the device, and nothing done with them."""

import time
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from athanor.data.batches import TrainBatches
from contenders import task

SECONDS = 1.0  # of epochs that are measured, at least


def main() -> None:
    parser = task.parser()
    parser.add_argument("--path", choices=("athanor", "torchvision"), required=True)
    parser.add_argument("--workers", type=int, default=0)
    arguments = parser.parse_args()
    cfg = task.compose(arguments.overrides)
    torch.manual_seed(cfg["seed"])
    data, device = task.Data(cfg), task.device(cfg)
    if arguments.path == "athanor":
        epoch = whole_batches(cfg, data, device)
    else:
        from contenders import per_image  # torchvision is no part of the other path

        loader, _ = per_image.loaders(cfg, data, arguments.workers)
        epoch = moved(loader, device)
    task.write({"images_per_s": measure(epoch, device), **task.facts(device)})


def whole_batches(cfg: dict, data: task.Data, device: torch.device) -> Callable[[], Iterator[Tensor]]:
    images, labels = data.images.to(device), data.labels.to(device)
    batches = TrainBatches(images, labels, data.train_index, data.batch_size, cfg["seed"], data.augment)
    standardize = data.standardize().to(device)
    return lambda: (standardize(images) for images, _ in batches)


def moved(loader: Iterable, device: torch.device) -> Callable[[], Iterator[Tensor]]:
    return lambda: (images.to(device, non_blocking=True) for images, _ in loader)


def measure(epoch: Callable[[], Iterator[Tensor]], device: torch.device) -> float:
    """Images a second over whole epochs, after one that starts workers and warms caches."""
    for _ in epoch():
        pass
    task.wait_for(device)
    count, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < SECONDS:
        count += sum(len(images) for images in epoch())
        task.wait_for(device)
    return count / elapsed


if __name__ == "__main__":
    main()
