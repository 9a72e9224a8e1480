"""An ensemble as one network, so that whatever takes a classifier takes it: evaluate, predict, export."""

import torch
from torch import Tensor, nn

from athanor.craft.ensembles.combine import How, combined
from athanor.tasks import tta
from athanor.tasks.classification import Classifier
from athanor.tasks.losses import at_least_float32


class Ensemble(nn.Module):
    """Raw uint8 images [N, C, H, W] to log-probabilities [N, num_classes]. Members preprocess for themselves."""

    def __init__(self, members: list[Classifier], how: How, weights: list[float], kind: tta.Kind) -> None:
        super().__init__()
        self.members, self.how, self.kind = nn.ModuleList(members), how, kind
        self.register_buffer("weights", torch.tensor(weights), persistent=False)  # they stand in the record

    def each(self, images: Tensor) -> Tensor:
        """The members' logits [M, N, num_classes]."""
        return torch.stack([logits_of(member, images, self.kind) for member in self.members])

    def forward(self, images: Tensor) -> Tensor:
        return combined(self.each(images), self.how, self.weights)


class EnsembleClassifier(Classifier):
    """A classifier whose network is an `Ensemble`: its logits are log-probabilities."""

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)  # bytes, as they are: a member's preprocessing may write into floats


def logits_of(classifier: Classifier, images: Tensor, kind: tta.Kind) -> Tensor:
    """Float32 logits [N, num_classes] of uint8 images [N, C, H, W], averaged over the views of `kind`."""
    return at_least_float32(tta.averaged(classifier, images, kind, classifier(images)))
