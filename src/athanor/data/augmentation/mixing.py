"""Mixup (Zhang et al. 2017) and cutmix (Yun et al. 2019): two images become one, and its target shares of both."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from athanor.base.errors import UserError, require
from athanor.data.augmentation.windows import in_dtype

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Mixing:
    """Mixes image i of a batch with image total - 1 - i, which is any other one, because batches are shuffled.

    mixup: alpha; the share of an image is drawn from Beta(alpha, alpha), for each image anew; 0: off.
    cutmix: alpha of the same for the area that stays; the other image shows in a rectangle at a random place.
    Where both are on, a batch has one of them, each with probability 1/2.
    num_classes: targets become probabilities, float32 [N, num_classes].
    Raises UserError for negative values.
    """

    mixup: float
    cutmix: float
    num_classes: int

    def __post_init__(self) -> None:
        for name in "mixup", "cutmix":
            value = getattr(self, name)
            require(value >= 0, f"data.{name}={value} is negative; use 0 to switch it off, or e.g. 0.2 or 1")

    def __bool__(self) -> bool:
        return bool(self.mixup or self.cutmix)

    def check(self, inputs: Tensor, targets: Tensor) -> None:
        """Raise UserError for what cannot be mixed."""
        name = "mixup" if self.mixup else "cutmix"
        if not (targets.ndim == 1 and targets.dtype == torch.int64 and self.num_classes):
            raise UserError(f"data.{name} mixes classes, and the targets of this data are none; type data.{name}=0")
        if inputs.dtype == torch.int64:
            raise UserError(f"data.{name} mixes pictures and features, and this data has int64; type data.{name}=0")
        if self.cutmix and inputs.ndim != 4:
            raise UserError(
                f"data.cutmix takes pictures, and this data has inputs {list(inputs.shape)}; use data.mixup"
            )

    def __call__(self, batch: Batch, others: Batch, seed: int, total: int, start: int) -> Batch:
        """Mix inputs start to start + N - 1 of a batch of `total` with those at the same places of `others`.

        Targets are int64 [N], or probabilities already. Random numbers are drawn for the whole batch, so the number of
        processes does not matter.
        """
        part = slice(start, start + len(batch[0]))
        draws = np.random.default_rng(seed)  # torch draws no Beta by a generator
        is_cutmix = draws.random() < (0.5 if self.mixup and self.cutmix else self.cutmix > 0)
        alpha = self.cutmix if is_cutmix else self.mixup
        share = torch.from_numpy(draws.beta(alpha, alpha, total)).float()[part].to(batch[0].device)
        if is_cutmix:
            centre = torch.from_numpy(draws.random((total, 2))).float()[part].to(batch[0].device)
            inputs, share = cutmix(batch[0], others[0], share, centre)
        else:
            inputs = mixup(batch[0], others[0], share)
        return inputs, torch.lerp(self._soft(others[1]), self._soft(batch[1]), share[:, None])

    def _soft(self, targets: Tensor) -> Tensor:
        return targets if targets.is_floating_point() else F.one_hot(targets, self.num_classes).float()


def mixup(inputs: Tensor, others: Tensor, share: Tensor) -> Tensor:
    """share * inputs + (1 - share) * others, in their dtype; `share` is [N]."""
    share = share.view(-1, *[1] * (inputs.ndim - 1))
    return in_dtype(torch.lerp(others.float(), inputs.float(), share), inputs.dtype)


def cutmix(images: Tensor, others: Tensor, share: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Images with a rectangle of the others, of the area 1 - share before it is cut off at the border, and the share
    that stays, [N]. centre: [N, 2] (y, x) as fractions of height and width.
    """

    def inside(length: int, middle: Tensor) -> Tensor:
        pixel = torch.arange(length, device=images.device) + 0.5
        return (pixel - middle[:, None] * length).abs() < (1 - share).sqrt()[:, None] * length / 2

    rows, columns = inside(images.shape[2], centre[:, 0]), inside(images.shape[3], centre[:, 1])
    hole = rows[:, None, :, None] & columns[:, None, None]
    return torch.where(hole, others, images), 1 - hole.float().mean((1, 2, 3))
