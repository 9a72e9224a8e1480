"""Batches that are cut from whole arrays by indexing, without Python code per image and without worker processes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from athanor.data.augmentation.augment import Augment
from athanor.data.augmentation.mixing import Mixing
from athanor.data.augmentation.own_augment import OwnAugment
from athanor.data.seeds import mix
from athanor.data.streamed import Items

Batch = tuple[Tensor, Tensor]
FLIP = 0x666C6970  # "flip" in ASCII: makes the draws of alternating flip independent of those of (seed, epoch)
VIEWS = 0x76696577  # "view" in ASCII: the same for those of validation and test
MIXED = 0x6D6978  # "mix" in ASCII: the same for those of mixup and cutmix


@dataclass
class TrainBatches:
    """Shuffled batches; each process takes its part of a batch, and the last batch of an epoch, if partial, is dropped.

    Gives (images uint8 [batch_size / world_size, C, H, W], targets); of several views, all images in their first view
    come before all in their second one, and targets stay those of the images. Targets of mixed images are
    probabilities. Order, augmentation and mixing are functions of (seed, epoch, step), and `position` tells the epoch
    and step of the run. So a run that is resumed in the middle of an epoch gets the batches that it would have got
    without the interruption.
    """

    images: Tensor | Items  # uint8 [N, C, H, W]
    targets: Tensor | None  # [N, ...]: class indices, or probabilities to train on, or what else the task takes
    index: Tensor  # int64: the images that are trained on
    batch_size: int  # global: of all processes together
    seed: int
    augment: Augment | OwnAugment
    position: Callable[[], tuple[int, int]] = lambda: (0, 0)  # (epoch, number of its batches that are done)
    rank: int = 0
    world_size: int = 1
    views: int = 1
    mixing: Mixing | None = None

    def __len__(self) -> int:
        return len(self.index) // self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        epoch, done = self.position()
        order = self.index[torch.randperm(len(self.index), generator=generator("cpu", self.seed, epoch))]
        order = order.to(self.images.device)
        share = self.batch_size // self.world_size
        mirrored = self._mirrored(epoch) if self.augment.alternates else None
        first = self.rank * share
        begin = self.batch_size - first - share  # where the part of the partners of mixing begins, last to first
        begins = [first, begin] if self.mixing and begin != first else [first]
        steps = range(done, len(self))
        parts = (order[step * self.batch_size + at :][:share] for step in steps for at in begins)
        batches = cut(self.images, self.targets, parts, self.seed, epoch)
        for step in steps:
            batch = self._augmented(next(batches), first, mirrored, epoch, step)
            if self.mixing:
                others = batch if begin == first else self._augmented(next(batches), begin, mirrored, epoch, step)
                partners = others[0].flip(0), others[1].flip(0)
                batch = self.mixing(batch, partners, mix(self.seed, epoch, step, MIXED), self.batch_size, first)
            yield batch

    def _augmented(
        self, part: tuple[Tensor, Tensor, Tensor], first: int, mirrored: Tensor | None, epoch: int, step: int
    ) -> Batch:
        """A process's part of a batch, (index, images, targets), which begins at number `first` of it, augmented."""
        chosen, images, targets = part
        if self.augment:
            flips = None if mirrored is None else mirrored.index_select(0, chosen).to(images.device)
            seeds = [(self.seed, epoch, step, *([view] if view else [])) for view in range(self.views)]
            draws = [generator(images.device, *numbers) for numbers in seeds]
            views = [self.augment(images, draw, self.batch_size, first, flips) for draw in draws]
            images = torch.cat(views) if self.views > 1 else views[0]
        return images, targets

    def _mirrored(self, epoch: int) -> Tensor:
        """Which of all N images alternating flip mirrors, bool [N]: about half of them, and the others next epoch."""
        half = torch.rand(len(self.images), generator=generator("cpu", self.seed, FLIP)) < 0.5
        return (half ^ bool(epoch % 2)).to(self.images.device)

    # Lightning takes a loader with these two methods for one that can be resumed; `position` has all that is needed.
    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


@dataclass
class EvalBatches:
    """Batches of every image once, in the order of `index`.

    Process r of n takes images r, r + n, r + 2n and so on, so no image is counted twice.
    """

    images: Tensor | Items
    targets: Tensor
    index: Tensor
    batch_size: int  # of each process
    rank: int = 0
    world_size: int = 1
    views: int = 1
    augment: Augment | OwnAugment | None = None  # what makes the views, where they are several

    def __len__(self) -> int:
        return -(-len(self.index[self.rank :: self.world_size]) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        own = self.index[self.rank :: self.world_size].to(self.images.device)
        starts = range(0, len(own), self.batch_size)
        parts = (own[start : start + self.batch_size] for start in starts)
        for start, (chosen, images, targets) in zip(starts, cut(self.images, self.targets, parts), strict=True):
            if self.views > 1:  # the same in each epoch
                draws = [generator(images.device, VIEWS, start, view) for view in range(self.views)]
                images = torch.cat([self.augment(images, draw, len(chosen)) for draw in draws])
            yield images, targets


def cut(
    images: Tensor | Items, targets: Tensor | None, parts: Iterator[Tensor], *moment: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The indices of each batch, and its inputs and targets; of a Dataset with the targets that its items have if
    `targets` is None. moment: (seed, epoch) of training, on which random items depend; in evaluation none.
    """
    if isinstance(images, Tensor):
        for chosen in parts:
            # 6 to 10 times faster on the CPU than images[chosen]
            yield chosen, images.index_select(0, chosen), targets.index_select(0, chosen)
    else:
        for chosen, inputs, own in images.batches(parts, *moment):
            yield chosen, inputs, own if targets is None else targets.index_select(0, chosen)


def generator(device: torch.device | str, *numbers: int) -> torch.Generator:
    """A new generator whose seed is a function of these numbers alone."""
    return torch.Generator(device).manual_seed(mix(*numbers))
