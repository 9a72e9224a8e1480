"""Images for machines without the real ones: the same shapes and counts, and classes that can be learnt."""

import torch
from torch import Tensor

from athanor.data.sources.source import Source


def mnist() -> Source:
    return generate((1, 28, 28), num_train=60_000, num_test=10_000)


def cifar10() -> Source:
    return generate((3, 32, 32), num_train=50_000, num_test=10_000)


def generate(shape: tuple[int, int, int], num_train: int, num_test: int) -> Source:
    """Ten pictures of noise, one a class, each image half of its class's and half noise of its own."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (10, *shape), dtype=torch.uint8, generator=generator)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(0, 10, (count,), generator=generator)
        noise = torch.randint(0, 128, (count, *shape), dtype=torch.uint8, generator=generator)
        return noise.add_(pictures.div(2, rounding_mode="floor")[labels]), labels

    return Source(*draw(num_train), *draw(num_test), tuple("0123456789"), "generated for a benchmark")
