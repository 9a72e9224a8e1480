"""Generated images for machines without the real data sets: the same shapes and counts, and classes to learn."""

import torch
from torch import Tensor

from athanor.data.sources.source import Source


def mnist() -> Source:
    """Images in the shape and number of MNIST."""
    return generate((1, 28, 28), num_train=60_000, num_test=10_000)


def cifar10() -> Source:
    """Images in the shape and number of CIFAR-10."""
    return generate((3, 32, 32), num_train=50_000, num_test=10_000)


def generate(shape: tuple[int, int, int], num_train: int, num_test: int) -> Source:
    """Random images of ten classes: each image is the mean of the picture of its class and of noise of its own."""
    generator = torch.Generator().manual_seed(0)
    class_pictures = torch.randint(0, 256, (10, *shape), dtype=torch.uint8, generator=generator)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(0, 10, (count,), generator=generator)
        noise = torch.randint(0, 128, (count, *shape), dtype=torch.uint8, generator=generator)
        return noise.add_(class_pictures.div(2, rounding_mode="floor")[labels]), labels

    return Source(*draw(num_train), *draw(num_test), tuple("0123456789"), "generated for a benchmark")
