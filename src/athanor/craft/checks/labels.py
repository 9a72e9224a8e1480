"""Inputs say something about labels: a network learns more from them than from shuffled labels or from blank inputs."""

import torch
from torch import nn

from athanor.craft.checks.finding import DoesNotApplyError, Finding, judged
from athanor.craft.checks.subject import EXAMPLES, Pair, Subject, is_pair

FAST = False
TAKES_CLASSES = True
STEPS = 40
RATE = 3e-3  # of Adam, with which any network learns something in so few steps, whatever the training's optimizer is
GAIN = (
    0.05,
    0.02,
)  # share of the loss with shuffled labels, by which that with true ones is lower: else suspicious, wrong
WORSE = 3  # times the loss on new training examples, above which that of validation is suspicious


def check(subject: Subject) -> Finding:
    if not len(subject.labels) or subject.views > 1:
        raise DoesNotApplyError("labels are not used")
    batches = [subject.small(batch) for batch in subject.raw_batches]
    split = len(batches) - (len(batches) // 4 or 1)
    seen, unseen = batches[:split], batches[split:]
    if not seen:
        raise DoesNotApplyError("there is one training batch, and none to try what was learned")
    network, control = learned(subject, seen), learned(subject, shuffled(seen))
    true, random = loss_on(subject, network, unseen), loss_on(subject, control, unseen)
    blank = loss_on(subject, learned(subject, blanked(seen)), blanked(unseen))
    figure = f"loss on new examples {true:.4g}, with shuffled labels {random:.4g}, blank inputs {blank:.4g}"
    if true > (1 - GAIN[0]) * min(random, blank):
        advice = "labels do not belong to inputs, shuffled or shifted, or inputs say nothing: look at the picture"
        return judged(figure, advice, wrong=true > (1 - GAIN[1]) * random, suspicious=True)
    batch = next(iter(subject.loader("val") or ()), None)
    if not is_pair(batch):
        return judged(figure, "")
    few = tuple(part[:: max(len(part) // (4 * EXAMPLES), 1)] for part in batch)  # they may be sorted by class
    loss = loss_on(subject, network, [subject.trainer.strategy.batch_to_device(few)])
    return judged(
        f"{figure}, in validation {loss:.4g}",
        "validation is not like training: look at its labels and at its preprocessing, with the picture",
        wrong=loss > (1 - GAIN[1]) * random,
        suspicious=loss > WORSE * true and loss > random / 2,
    )


def learned(subject: Subject, batches: list[Pair]) -> nn.Module:
    module = subject.single_optimizer()
    optimizer = torch.optim.Adam([parameter for _, parameter in subject.trained(module)], RATE)
    for step in range(STEPS):
        subject.step(module, batches[step % len(batches)], step, optimizer)
    return module.eval()


@torch.no_grad()
def loss_on(subject: Subject, module: nn.Module, batches: list[Pair]) -> float:
    return sum(subject.loss(module, batch).item() for batch in batches) / len(batches)


def shuffled(batches: list[Pair]) -> list[Pair]:
    labels = torch.cat([labels for _, labels in batches])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).to(labels.device)
    parts = labels[order].split([len(labels) for _, labels in batches])
    return [(inputs, part) for (inputs, _), part in zip(batches, parts, strict=True)]


def blanked(batches: list[Pair]) -> list[Pair]:
    return [(torch.zeros_like(inputs), labels) for inputs, labels in batches]
