"""Contrastive learning: the two views of an image are alike, and those of different images are not."""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athanor.base.errors import require
from athanor.data.sources.source import Source
from athanor.tasks.losses import at_least_float32
from athanor.tasks.measure import LOSS, Measure
from athanor.tasks.task import Task


class Contrastive(Task):
    """Maps images to unit vectors [N, dim] without their targets (SimCLR, Chen et al. 2020, section 2).

    data.views=2 gives two augmented views of each image, [2N, C, H, W], all first views before all second ones. The
    head of the network and a further layer are the projection; `weights=<run>` drops both, and trains a new head:
    fine-tuning, or with model.freeze a linear probe. `match` is the share of views whose most similar other view in the
    batch is that of the same image; it depends on the size of the batch, and so does the loss.

    dim: of the projection. On several devices, training compares with the views of all of them.
    Raises UserError for eval.tta.
    """

    measures: ClassVar[dict[str, Measure]] = {"match": Measure("max"), "loss": LOSS}
    summed: ClassVar[tuple[str, ...]] = ("match",)
    losses: ClassVar[tuple[str, ...]] = ("info_nce",)
    views: ClassVar[int] = 2

    def __init__(self, *parts, dim: int, **settings) -> None:
        super().__init__(*parts, **settings)
        require(self.tta == "none", f"eval.tta={self.tta}: task=contrastive has none; type eval.tta=none")
        self.projection = nn.Sequential(nn.ReLU(), nn.Linear(dim, dim))

    @classmethod
    def output_names(cls, source: Source, settings: dict) -> Sequence[str]:
        require(settings["dim"] >= 2, f"task.dim={settings['dim']}: use 2 or more")
        return [f"dim_{i}" for i in range(settings["dim"])]

    def forward(self, inputs: Tensor) -> Tensor:
        return F.normalize(at_least_float32(self.projection(super().forward(inputs))), dim=1)

    def loss_of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.training and self.trainer.world_size > 1:
            each = self.all_gather(outputs, sync_grads=True)  # [devices, 2N, dim]
            outputs = torch.cat([view.flatten(0, 1) for view in each.chunk(2, 1)])
        return self.loss(outputs, targets)

    def sums(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        nearest = (outputs @ outputs.T).fill_diagonal_(-1).argmax(1)
        partner = torch.arange(len(outputs), device=outputs.device).roll(len(targets))
        return {"match": (nearest == partner).sum() / 2}
