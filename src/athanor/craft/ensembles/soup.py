"""One network whose weights are the mean of its members' (Wortsman et al. 2022): an ensemble for one forward pass.

It works only between networks that began as one: the runs of a fine-tuning, or checkpoints of one run.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from athanor.base.errors import UserError
from athanor.craft.ensembles import predictions
from athanor.craft.ensembles.combine import scores
from athanor.data.batches import EvalBatches
from athanor.data.module import ImageData
from athanor.engine.runs.ensembles.members import Member
from athanor.engine.runs.run import load_classifier, read_checkpoint
from athanor.models import batch_norm
from athanor.tasks.classification import Classifier

Kind = Literal["uniform", "greedy"]
IMAGES = 10_000  # of the train split, at most, that statistics of batch norm are taken of


def refuse_other_starts(members: list[Member]) -> None:
    """Raise UserError where the mean of the members' weights would be of networks that never were near one another."""
    first = members[0]
    for member in members:
        if "members" in member.record:
            raise UserError(f"{member.name} is an ensemble, which has no weights to average; leave out --soup")
        if "start" not in member.record:
            raise UserError(f"{member.name} was written before runs recorded what they started from; train it again")
        if member.record["start"] != first.record["start"]:
            raise UserError(
                f"{member.name} and {first.name} started from other weights, and the mean of theirs would be no network"
                "\n  a soup takes checkpoints of one run, or runs with the same weights=<run>; leave out --soup"
            )
        for part in lambda config: config["model"], lambda config: config["data"]["preprocess"]:
            if part(member.record["config"]) != part(first.record["config"]):
                raise UserError(f"{member.name} has other settings of the model or data.preprocess than {first.name}")


def cook(members: list[Member], kind: Kind, losses: list[float], data: ImageData, device: str) -> "Soup":
    """The soup of members with these validation losses. Raises UserError where the best member alone is better.

    uniform: the mean of all. greedy: from the best member on, each next one stays in where the validation loss does not
    get worse by it (Wortsman et al. 2022, recipe 1).
    """
    kitchen = Soup(members, data, device)
    order = sorted(range(len(members)), key=losses.__getitem__)
    best = losses[order[0]]
    if kind == "uniform":
        used, loss = order, kitchen.loss(order)
    else:
        used, loss = order[:1], best
        for member in order[1:]:
            tried = kitchen.loss([*used, member])
            if tried <= loss:
                used, loss = [*used, member], tried
    if len(used) < 2 or not loss <= best:  # also where it is nan
        found = f"has a validation loss of {loss:.4f}" if len(used) > 1 else "is no better with any other member"
        raise UserError(
            f"the {kind} soup {found}; {members[order[0]].name} alone has {best:.4f}, and nothing is written\n"
            "  leave out --soup for an ensemble"
        )
    kitchen.loss(used)  # the last one that was tried may be another
    return kitchen


class Soup:
    """A classifier that takes the mean weights of one choice of members after the other."""

    def __init__(self, members: list[Member], data: ImageData, device: str) -> None:
        self.members, self.data, self.device = members, data, device
        self.classifier = load_classifier(members[0].path).to(device)
        self.labels = predictions.labels(data, "val")

    def loss(self, used: list[int]) -> float:
        """On validation, of the mean of these members, which the classifier then is."""
        self.used = used
        self.classifier.load_state_dict(average(read_checkpoint(self.members[i].path)["state_dict"] for i in used))
        renew_statistics(self.classifier, self.data, self.device)
        return scores(self.logits("val").log_softmax(-1), self.labels)["loss"]

    def logits(self, stage: predictions.Stage) -> Tensor:
        """[N, num_classes]"""
        return predictions.predicted(self.classifier, predictions.batches(self.data, stage), device=self.device)


def average(states: Iterator[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each floating-point tensor, summed in float64. Counters and the like are those of the first."""
    first = next(states)
    sums, count = {name: value.double() for name, value in first.items() if value.is_floating_point()}, 1
    for state in states:
        count += 1
        for name, total in sums.items():
            total.add_(state[name])
    return {name: (sums[name] / count).to(value.dtype) if name in sums else value for name, value in first.items()}


@torch.inference_mode()
def renew_statistics(classifier: Classifier, data: ImageData, device: str) -> None:
    """Batch norm's means and variances anew, as the mean over batches of train images: those of the members are of
    activations that the soup does not have. Only these layers are in train mode, dropout is not.
    """
    with batch_norm.new_statistics(classifier) as norms:
        if not norms:
            return
        shuffled = torch.randperm(len(data.train_index), generator=torch.Generator().manual_seed(0))
        count = min(len(shuffled), max(IMAGES, data.batch_size)) // data.batch_size * data.batch_size
        index = data.train_index[shuffled[:count]]  # whole batches: one image has no variance
        batches = EvalBatches(data.source.train_images, data.source.train_labels, index, data.batch_size)
        for images, _ in batches:
            classifier(images.to(device))
