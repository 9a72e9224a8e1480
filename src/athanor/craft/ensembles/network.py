"""An ensemble as one network, so that whatever takes a classifier takes it: evaluate, predict, export."""

import torch
from torch import Tensor, nn

from athanor.craft.ensembles.combine import How, combined
from athanor.tasks import tta
from athanor.tasks.classification import Classification
from athanor.tasks.losses import at_least_float32


class Ensemble(nn.Module):
    """Raw uint8 images [N, C, H, W] to log-probabilities [N, num_classes]. Each member does its own preprocessing.

    weights: of the members, at least 0. kind: the views of each image that a member's logits are averaged over.
    """

    def __init__(self, members: list[Classification], how: How, weights: list[float], kind: tta.Kind) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.how = how
        self.kind = kind
        self.register_buffer("weights", torch.tensor(weights), persistent=False)  # the checkpoint's record has them

    def member_logits(self, images: Tensor) -> Tensor:
        """The members' logits [M, N, num_classes]."""
        return torch.stack([logits_over_views(member, images, self.kind) for member in self.members])

    def forward(self, images: Tensor) -> Tensor:
        return combined(self.member_logits(images), self.how, self.weights)


class EnsembleClassifier(Classification):
    """A classifier whose network is an `Ensemble`: its logits are log-probabilities."""

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)  # uint8, without conversion: each member's preprocessing takes raw images


def logits_over_views(classifier: Classification, images: Tensor, kind: tta.Kind) -> Tensor:
    """Logits [N, num_classes], float32 or wider, of uint8 images [N, C, H, W], averaged over the views of `kind`."""
    return at_least_float32(tta.averaged(classifier, images, kind, classifier(images)))
