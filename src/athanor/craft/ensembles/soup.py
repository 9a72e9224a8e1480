"""One network whose weights are the mean of its members' (Wortsman et al. 2022): an ensemble for one forward pass.

It works only between networks whose training began at the same weights: the runs of a fine-tuning, or checkpoints of
one run.
"""

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from athanor.craft.ensembles.combine import scores
from athanor.craft.ensembles.predictions import Stage, predict_logits, stage_batches, stage_labels
from athanor.data.batches import EvalBatches
from athanor.data.module import ArrayData
from athanor.models import batch_norm
from athanor.tasks.classification import Classification

Kind = Literal["uniform", "greedy"]
IMAGES = 10_000  # of the train split, at most, from which statistics of batch norm are computed


class Soup:
    """A classifier that takes the mean weights of one choice of members after another.

    classifier: any of the members, whose weights are replaced. states: for each member a function that reads its state
    dict, so that one is in memory at a time.
    """

    def __init__(
        self, classifier: Classification, states: list[Callable[[], dict[str, Tensor]]], data: ArrayData
    ) -> None:
        self.classifier = classifier
        self.states = states
        self.data = data

    def choose(self, kind: Kind, losses: list[float]) -> tuple[list[int], float]:
        """Become the mean of the members that `kind` chooses; gives their indices, best first, and the mean's loss.

        losses: of each member, on validation. uniform: all members. greedy: beginning with the best member, each next
        one stays in if the validation loss does not get worse by it (Wortsman et al. 2022, recipe 1).
        """
        order = sorted(range(len(losses)), key=losses.__getitem__)
        if kind == "uniform":
            return order, self.average(order)
        used, loss = order[:1], losses[order[0]]
        for member in order[1:]:
            new_loss = self.average([*used, member])
            if new_loss <= loss:
                used, loss = [*used, member], new_loss
        return used, self.average(used)  # the last mean that was tried may be another

    def average(self, used: list[int]) -> float:
        """Become the mean of these members; gives its loss on the validation images."""
        self.classifier.load_state_dict(mean_state(self.states[member]() for member in used))
        renew_statistics(self.classifier, self.data)
        return scores(self.logits("val").log_softmax(-1), stage_labels(self.data, "val"))["loss"]

    def logits(self, stage: Stage) -> Tensor:
        """Logits [N, num_classes] for the images of a stage, float32 on the CPU."""
        return predict_logits(self.classifier, stage_batches(self.data, stage), device=self.classifier.device)


def mean_state(states: Iterator[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each floating-point tensor, summed in float64. Counters and the like are those of the first."""
    first = next(states)
    sums, count = {name: value.double() for name, value in first.items() if value.is_floating_point()}, 1
    for state in states:
        count += 1
        for name, total in sums.items():
            total.add_(state[name])
    return {name: (sums[name] / count).to(value.dtype) if name in sums else value for name, value in first.items()}


@torch.inference_mode()
def renew_statistics(classifier: Classification, data: ArrayData) -> None:
    """Compute the means and variances of batch norm anew, as the mean over batches of train images.

    The statistics of the members do not fit: they are of activations that the mean network does not have. Only batch
    norm layers are in train mode meanwhile, so dropout changes nothing.
    """
    with batch_norm.new_statistics(classifier) as norms:
        if not norms:
            return
        shuffled = torch.randperm(len(data.train_index), generator=torch.Generator().manual_seed(0))
        count = min(len(shuffled), max(IMAGES, data.batch_size)) // data.batch_size * data.batch_size
        index = data.train_index[shuffled[:count]]  # whole batches: a single image has no variance
        for images, _ in EvalBatches(data.source.train_inputs, data.source.train_targets, index, data.batch_size):
            classifier(images.to(classifier.device))
