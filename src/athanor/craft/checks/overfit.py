"""Twenty examples, some of each class, are learned by heart without regularisation and augmentation."""

import math

import torch

from athanor.craft.checks.finding import DoesNotApplyError, Finding, ok, wrong
from athanor.craft.checks.subject import DROPOUT, Pair, Subject

FAST = False
TAKES_CLASSES = True
EXAMPLES = 20
STEPS = 500
FLOOR = 1e-2  # of the loss, where targets are classes;
SHARE = 0.05  # of the first loss, where they are numbers


def check(subject: Subject) -> Finding:
    if subject.views > 1:
        raise DoesNotApplyError("the loss of several views has a floor that depends on them")
    batch = subject.trainer.strategy.batch_to_device(stratified(subject))
    is_learned, figure = learn(subject, batch, by_adam=False)
    if is_learned:
        return ok(figure)
    if learn(subject, batch, by_adam=True)[0]:
        advice = "Adam at 0.001 learns them: look at the optimizer's settings, above all the learning rate"
        return Finding("suspicious", figure, advice)
    return wrong(figure, "nor by Adam at 0.001: look at loss, gradients, frozen parts and the labels")


def stratified(subject: Subject) -> Pair:
    """Examples of training without augmentation, as many of each class where there are classes."""
    inputs, targets = subject.examples("train", 5000)
    chosen = torch.arange(min(EXAMPLES, len(inputs)))
    if targets.dtype == torch.int64 and targets.ndim == 1:
        ordered, order = targets.sort(stable=True)
        number = torch.arange(len(targets)) - torch.searchsorted(ordered, ordered)  # of an example in its class
        chosen = order[number.argsort(stable=True)[:EXAMPLES]]
    return inputs[chosen], targets[chosen]


def learn(subject: Subject, batch: Pair, by_adam: bool) -> tuple[bool, str]:
    """Whether these examples are learned by heart, by the configured optimizer or by Adam, and what was measured."""
    module = subject.single_optimizer()
    for part in module.modules():
        if isinstance(part, DROPOUT):
            part.p = 0.0
        if hasattr(part, "label_smoothing"):
            part.label_smoothing = 0.0
    trained = [parameter for _, parameter in subject.trained(module)]
    optimizer = torch.optim.Adam(trained, 1e-3) if by_adam else subject.optimizers_of(module)[0]
    for group in optimizer.param_groups:
        group.update({"weight_decay": 0.0} if "weight_decay" in group else {})
    losses: list[float] = []
    while len(losses) < STEPS and (not losses or FLOOR / 2 < losses[-1] < math.inf):
        losses.append(subject.step(module, batch, len(losses), optimizer))
    figure = f"loss {losses[0]:.4g} to {losses[-1]:.4g} after {len(losses)} steps on {len(batch[0])} examples"
    targets = subject.targets_of(batch)
    if targets.is_floating_point():
        return losses[-1] < max(FLOOR, SHARE * losses[0]), figure
    with torch.no_grad():
        right = (subject.outputs(module, batch[0]).argmax(1) == targets).float().mean().item()
    return right == 1 and losses[-1] < max(FLOOR, SHARE * losses[0]), f"{figure}, {right:.0%} right"
