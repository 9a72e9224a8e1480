"""The first loss is that of outputs that know nothing, and a mean over the examples (Karpathy et al., CS231n)."""

import math

import torch
from torch import Tensor, nn

from athanor.craft.checks.finding import Finding, judged
from athanor.craft.checks.subject import Subject, is_pair
from athanor.tasks.losses import Hinge, OneVsAll
from athanor.tasks.task import Task

FAST = True
HIGH = {True: (3, 10), False: (30, 1e4)}  # times the expected loss: suspicious, wrong; for classes, and for numbers
LOW = (0.7, 0.3)  # the same below it, for classes

START = "look at the scale of the inputs and of the first weights, above all of the last layer"


def expected_loss(module: nn.Module, outputs: Tensor, targets: Tensor) -> tuple[float, str]:
    """The loss of outputs that know nothing, and its formula: -ln(1/C) of a softmax, C - 1 of the hinge, K ln 2 of K
    logistic outputs, by the class of the loss; of numbers the loss of their mean; else, and with class weights, what
    the loss of the task says of zeros.

    Smoothing of labels does not change it. nan where a module is no Task and its targets are no classes.
    """
    loss = getattr(module, "loss", None)
    count = outputs.shape[-1]
    is_softmax = isinstance(loss, nn.CrossEntropyLoss) and loss.weight is None
    if is_softmax or not (isinstance(module, Task) or targets.is_floating_point()):
        return math.log(count), f"-ln(1/{count})"
    if isinstance(loss, Hinge):
        return (count - 1) * loss.margin**loss.power, f"{count} - 1, times the margin"
    if isinstance(loss, OneVsAll):
        return (count * math.log(2), f"{count} ln 2") if loss.kind == "logistic" else (count, f"{count}")
    if isinstance(module, Task):
        with torch.no_grad():
            if targets.is_floating_point() and targets.shape == outputs.shape:
                return module.loss_of(targets.mean(0).expand_as(outputs), targets).item(), "that of the targets' mean"
            return module.loss_of(torch.zeros_like(outputs), targets).item(), "that of outputs of zero"
    return math.nan, ""


def check(subject: Subject) -> Finding:
    module, batch = subject.copy(), subject.batch
    try:
        loss = subject.loss(module, batch).item()
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        text = f"training_step ends with {type(error).__name__}: {error}".splitlines()[0]
        return Finding(
            "wrong", text, "a batch cannot be trained on: look at shapes and types of its inputs and targets"
        )
    if not math.isfinite(loss):
        return Finding("wrong", f"{loss}", f"the first loss is not finite: {START}")
    if not is_pair(batch):
        return Finding("ok", f"{loss:.4g}, finite; of batches that are no pairs nothing else is known")
    if share := not_a_mean(subject, batch):
        return judged(
            f"of the whole batch {share:.3g} times the mean of that of its halves",
            wrong=share > 1.5 or share < 0.7,
            suspicious=True,
            advice="the loss is no mean over the examples: look for a sum, or a softmax over the batch (dim=0)",
        )
    return compare(subject, module, loss)


def not_a_mean(subject: Subject, batch: tuple[Tensor, Tensor]) -> float | None:
    """The loss over the mean of the losses of both halves, without dropout, where these differ."""
    half = len(batch[0]) // 2
    if half < 2 or getattr(subject.module, "views", 1) > 1 or not subject.module.automatic_optimization:
        return None
    module = subject.copy().eval()
    with torch.no_grad():
        parts = [tuple(part[where] for part in batch) for where in (slice(half), slice(half, 2 * half))]
        whole = subject.loss(module, tuple(part[: 2 * half] for part in batch)).item()
        mean = sum(subject.loss(module, part).item() for part in parts) / 2
    return whole / mean if mean and abs(whole / mean - 1) > 0.1 else None


def compare(subject: Subject, module: nn.Module, loss: float) -> Finding:
    try:
        outputs = subject.outputs(module, subject.batch[0]).detach().float()
        return judge_first_loss(module, outputs, subject.targets, loss)
    except Exception:  # of a module whose forward takes something else
        return Finding("ok", f"{loss:.4g}, finite; what it should be is not known")


def judge_first_loss(module: nn.Module, outputs: Tensor, targets: Tensor, loss: float) -> Finding:
    """Whether a first loss is what outputs of this shape would have that know nothing; targets: as the loss takes them.

    The hinge of a module that is no Task is known by its value.
    """
    expected, formula = expected_loss(module, outputs, targets)
    count = outputs.shape[-1]
    if not isinstance(module, Task) and abs(loss / max(count - 1, 1) - 1) < 0.5:
        expected, formula = count - 1, f"{count} - 1 of the hinge"
    if math.isnan(expected):
        return Finding("ok", f"{loss:.4g}, finite; what it should be is not known")
    figure = f"{loss:.4g}, expected about {expected:.4g} = {formula}"
    is_of_classes, ratio = not targets.is_floating_point(), loss / max(expected, 1e-12)
    if is_of_classes and ratio < LOW[0]:
        advice = "it is lower than guessing: look for labels among the inputs, and for a sign or factor of the loss"
        return judged(figure, wrong=ratio < LOW[1], suspicious=True, advice=advice)
    # the square of a margin grows with the square of the outputs
    high, worst = (limit ** getattr(getattr(module, "loss", None), "power", 1) for limit in HIGH[is_of_classes])
    return judged(figure, wrong=ratio > worst, suspicious=ratio > high, advice=START)
