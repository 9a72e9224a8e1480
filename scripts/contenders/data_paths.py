"""The speed of a data path alone: shuffled, augmented, standardised float32 batches on the device, which nothing uses.

Athanor's path makes each batch at once. The path of most training code is here as well, and the conventional contender
trains with it: images one by one through torchvision's transforms and a DataLoader.
"""

import time
from collections.abc import Callable, Iterable

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from athanor.data.batches import TrainBatches
from contenders import task

SECONDS = 1.0  # the shortest time that is measured; epochs are not cut


def main() -> None:
    cfg, options = task.from_command_line(path="athanor", workers=0)
    torch.manual_seed(cfg["seed"])
    data, device = task.Data(cfg), task.device_of(cfg)
    if options.path == "athanor":
        images, labels = data.images.to(device), data.labels.to(device)
        batches = TrainBatches(images, labels, data.train_index, data.batch_size, cfg["seed"], data.augment)
        speed = images_per_second(batches, data.standardize().to(device), device)
    else:
        loader, _ = loaders(cfg, data, options.workers)
        speed = images_per_second(loader, lambda images: images.to(device, non_blocking=True), device)
    task.write_report({"images_per_s": speed, **task.process_settings(device)})


def images_per_second(batches: Iterable, prepare: Callable[[Tensor], Tensor], device: torch.device) -> float:
    """The speed over whole epochs. One epoch before them, which starts workers and warms caches, does not count."""
    for images, _ in batches:
        prepare(images)
    task.wait_for(device)
    count, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < SECONDS:
        count += sum(len(prepare(images)) for images, _ in batches)
        task.wait_for(device)
    return count / elapsed


class Images(Dataset):
    """PIL images from arrays in memory, like torchvision.datasets.MNIST and CIFAR10."""

    def __init__(self, images: Tensor, labels: Tensor, index: Tensor, transform: transforms.Compose) -> None:
        pixels = images[index].permute(0, 2, 3, 1)  # to height, width, channels, the order of PIL
        self.pixels = pixels.squeeze(-1).contiguous().numpy()
        self.labels = labels[index].tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[i])), self.labels[i]


def loaders(cfg: dict, data: task.Data, workers: int) -> tuple[DataLoader, DataLoader]:
    """A loader of the training images, shuffled and augmented, and one of the validation images."""
    preprocess = data.standardize()
    mean, std = ((values / 255).flatten().tolist() for values in (preprocess.mean, preprocess.std))
    val_transforms = [transforms.ToTensor(), transforms.Normalize(mean, std)]
    train_transforms = list(val_transforms)
    if data.augment.flip:
        train_transforms.insert(0, transforms.RandomHorizontalFlip())
    if data.augment.crop:
        train_transforms.insert(0, transforms.RandomCrop(data.input_shape[1:], data.augment.crop))
    on_gpu = task.device_of(cfg).type == "cuda"
    common = {"num_workers": workers, "persistent_workers": workers > 0, "pin_memory": on_gpu}
    train = Images(data.images, data.labels, data.train_index, transforms.Compose(train_transforms))
    val = Images(data.images, data.labels, data.val_index, transforms.Compose(val_transforms))
    train_loader = DataLoader(train, batch_size=data.batch_size, shuffle=True, drop_last=True, **common)
    return train_loader, DataLoader(val, batch_size=data.eval_batch_size, **common)


if __name__ == "__main__":
    main()
