"""Inputs say something about labels: a network learns more from them than from shuffled labels or from blank inputs."""

import torch
from torch import Tensor, nn

from athanor.craft.checks.finding import DoesNotApplyError, Finding, judged
from athanor.craft.checks.subject import EXAMPLES, Pair, Subject, is_pair

FAST = False
STEPS = 40
RATE = 3e-3  # of Adam, with which any network learns something in so few steps, whatever the training's optimizer is
GAIN = 0.02  # share of the loss with shuffled labels, by which that with true labels is lower, else it is wrong;
SMALL_GAIN = 0.05  # and else suspicious


def check(subject: Subject) -> Finding:
    _ = subject.labels
    if getattr(subject.module, "views", 1) > 1:
        raise DoesNotApplyError("targets are not used")
    batches = subject.small_batches
    if len(batches) < 2:
        raise DoesNotApplyError("there is one training batch, and none to try what was learned")
    seen, unseen = batches[: -(len(batches) // 4 or 1)], batches[-(len(batches) // 4 or 1) :]
    order = torch.randperm(sum(len(labels) for _, labels in seen), generator=torch.Generator().manual_seed(0))
    labels = torch.cat([labels for _, labels in seen])[order.to(subject.device)].split([len(b[1]) for b in seen])
    shuffled = [(inputs, part) for (inputs, _), part in zip(seen, labels, strict=True)]
    network, control = learned(subject, seen), learned(subject, shuffled)
    true, random = loss_on(subject, network, unseen), loss_on(subject, control, unseen)
    blank = loss_on(subject, learned(subject, blanked(seen)), blanked(unseen))
    figure = f"loss on new examples {true:.4g}, with shuffled labels {random:.4g}, blank inputs {blank:.4g}"
    if true > (1 - SMALL_GAIN) * min(random, blank):
        advice = "labels do not belong to inputs, shuffled or shifted, or inputs say nothing: look at the picture"
        return judged(figure, wrong=true > (1 - GAIN) * random, suspicious=True, advice=advice)
    return of_validation(subject, network, figure, true, random)


def of_validation(subject: Subject, network: nn.Module, figure: str, true: float, random: float) -> Finding:
    """Whether validation is like training: what was learned there helps here."""
    loader = subject.loader("val")
    batch = next(iter(loader), None) if loader is not None else None
    if not is_pair(batch):
        return Finding("ok", figure)
    inputs, labels = (part[:: max(len(part) // (4 * EXAMPLES), 1)] for part in batch)  # they may be sorted by class
    loss = loss_on(subject, network, [subject.trainer.strategy.batch_to_device((inputs, labels))])
    return judged(
        f"{figure}, in validation {loss:.4g}",
        wrong=loss > (1 - GAIN) * random,
        suspicious=loss > 3 * true and loss > 0.5 * random,
        advice="validation is not like training: look at its labels and at its preprocessing, with the picture",
    )


def learned(subject: Subject, batches: list[Pair]) -> nn.Module:
    module = subject.copy()
    if not module.automatic_optimization:
        raise DoesNotApplyError("the module optimizes by hand")
    optimizer = torch.optim.Adam([parameter for _, parameter in subject.trained(module)], RATE)
    for step in range(STEPS):
        subject.step(module, batches[step % len(batches)], step, optimizer)
    return module.eval()


@torch.no_grad()
def loss_on(subject: Subject, module: nn.Module, batches: list[Pair]) -> float:
    return sum(subject.loss(module, batch).item() for batch in batches) / len(batches)


def blanked(batches: list[Pair]) -> list[tuple[Tensor, Tensor]]:
    return [(torch.zeros_like(inputs), labels) for inputs, labels in batches]
