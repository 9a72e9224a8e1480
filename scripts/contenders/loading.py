"""The data path alone: shuffled, augmented, standardised float32 batches on the device, which nothing uses."""

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from athanor.data.batches import TrainBatches
from contenders import task

SECONDS = 1.0  # the shortest time that is measured; epochs are not cut


def main() -> None:
    cfg, options = task.from_command_line(path="athanor", workers=0)
    torch.manual_seed(cfg["seed"])
    data, device = task.Data(cfg), task.device_of(cfg)
    if options.path == "athanor":
        epoch = whole_batches(cfg, data, device)
    else:
        epoch = image_by_image(cfg, data, device, options.workers)
    task.write_report({"images_per_s": images_per_second(epoch, device), **task.settings(device)})


def whole_batches(cfg: dict, data: task.Data, device: torch.device) -> Callable[[], Iterator[Tensor]]:
    """A function that starts an epoch of Athanor's batches, each made at once."""
    images, labels = data.images.to(device), data.labels.to(device)
    batches = TrainBatches(images, labels, data.train_index, data.batch_size, cfg["seed"], data.augment)
    standardize = data.standardize().to(device)
    return lambda: (standardize(images) for images, _ in batches)


def image_by_image(cfg: dict, data: task.Data, device: torch.device, workers: int) -> Callable[[], Iterator[Tensor]]:
    """A function that starts an epoch of torchvision's batches."""
    from contenders import per_image  # needs torchvision, which the other path does not import

    loader, _ = per_image.loaders(cfg, data, workers)
    return lambda: (images.to(device, non_blocking=True) for images, _ in loader)


def images_per_second(epoch: Callable[[], Iterator[Tensor]], device: torch.device) -> float:
    """The speed over whole epochs. One epoch before them, which starts workers and warms caches, does not count."""
    for _ in epoch():
        pass
    task.wait_for(device)
    count, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < SECONDS:
        count += sum(len(images) for images in epoch())
        task.wait_for(device)
    return count / elapsed


if __name__ == "__main__":
    main()
