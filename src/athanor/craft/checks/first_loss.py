"""The first loss is that of outputs that know nothing, and a mean over the examples (Karpathy et al., CS231n)."""

import math

import torch
from torch import Tensor, nn

from athanor.craft.checks.finding import Finding, judged, ok, wrong
from athanor.craft.checks.subject import Pair, Subject, is_pair
from athanor.tasks.losses import Hinge, OneVsAll
from athanor.tasks.task import Task

FAST = True
TAKES_CLASSES = True
HIGH = {True: (3, 10), False: (30, 1e4)}  # times the expected loss: suspicious, wrong; for classes, and for numbers
LOW = (0.7, 0.3)  # the same below it, for classes
UNEQUAL = (0.1, 0.5)  # relative difference of the loss of a batch from the mean of its halves: suspicious, wrong

ADVICE_HIGH = "look at the scale of the inputs and of the first weights, above all of the last layer"
ADVICE_LOW = "it is lower than guessing: look for labels among the inputs, and for a sign or factor of the loss"
ADVICE_MEAN = "the loss is no mean over the examples: look for a sum, or a softmax over the batch (dim=0)"


def check(subject: Subject) -> Finding:
    module, batch = subject.copy(), subject.batch
    try:
        loss = subject.loss(module, batch).item()
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        text = f"training_step ends with {type(error).__name__}: {error}".splitlines()[0]
        return wrong(text, "a batch cannot be trained on: look at shapes and types of its inputs and targets")
    if not math.isfinite(loss):
        return wrong(f"{loss}", f"the first loss is not finite: {ADVICE_HIGH}")
    if not is_pair(batch):
        return ok(f"{loss:.4g}, finite; what it should be is not known")
    ratio = of_halves(subject, batch)
    if abs(ratio - 1) > UNEQUAL[0]:
        figure = f"of the whole batch {ratio:.3g} times the mean of that of its halves"
        return judged(figure, ADVICE_MEAN, wrong=abs(ratio - 1) > UNEQUAL[1], suspicious=True)
    try:
        outputs = subject.outputs(module, batch[0]).detach().float()
        return judge_first_loss(module, outputs, subject.targets, loss)
    except Exception:  # of a module whose forward takes something else
        return ok(f"{loss:.4g}, finite; what it should be is not known")


@torch.no_grad()
def of_halves(subject: Subject, batch: Pair) -> float:
    """The loss over the mean of the losses of both halves, without dropout; 1 where it need not be that."""
    half, module = len(batch[0]) // 2, subject.copy().eval()
    if half < 2 or subject.views > 1 or not module.automatic_optimization:
        return 1.0
    parts = [tuple(part[where] for part in batch) for where in (slice(2 * half), slice(half), slice(half, 2 * half))]
    whole, first, second = (subject.loss(module, part).item() for part in parts)
    return 2 * whole / (first + second) if first + second else 1.0


def expected_loss(module: nn.Module, outputs: Tensor, targets: Tensor) -> tuple[float, str]:
    """The loss of outputs that know nothing, and its formula: -ln(1/C) of a softmax, C - 1 of the hinge, K ln 2 of K
    logistic outputs, by the class of the loss; of numbers the loss of their mean; else, and with class weights, what
    the loss of the task says of zeros. Smoothing of labels does not change it.

    Of a module that is no Task and has classes that of the softmax; of one with numbers nan.
    """
    loss, count = getattr(module, "loss", None), outputs.shape[-1]
    is_softmax = isinstance(loss, nn.CrossEntropyLoss) and loss.weight is None
    if is_softmax or not (isinstance(module, Task) or targets.is_floating_point()):
        return math.log(count), f"-ln(1/{count})"
    if isinstance(loss, Hinge):
        return (count - 1) * loss.margin**loss.power, f"{count} - 1, times the margin"
    if isinstance(loss, OneVsAll):
        return (count * math.log(2), f"{count} ln 2") if loss.kind == "logistic" else (count, f"{count}")
    if not isinstance(module, Task):
        return math.nan, ""
    with torch.no_grad():
        if targets.is_floating_point() and targets.shape == outputs.shape:
            return module.loss_of(targets.mean(0).expand_as(outputs), targets).item(), "that of the targets' mean"
        return module.loss_of(torch.zeros_like(outputs), targets).item(), "that of outputs of zero"


def judge_first_loss(module: nn.Module, outputs: Tensor, targets: Tensor, loss: float) -> Finding:
    """Whether a first loss is what outputs of this shape would have that know nothing; targets: as the loss takes them.

    The hinge of a module that is no Task is known by its value.
    """
    expected, formula = expected_loss(module, outputs, targets)
    hinge = outputs.shape[-1] - 1
    if not isinstance(module, Task) and hinge / 2 < loss < 1.5 * hinge:
        expected, formula = hinge, f"{hinge + 1} - 1 of the hinge"
    if math.isnan(expected):
        return ok(f"{loss:.4g}, finite; what it should be is not known")
    figure = f"{loss:.4g}, expected about {expected:.4g} = {formula}"
    is_of_classes, ratio = not targets.is_floating_point(), loss / max(expected, 1e-12)
    if is_of_classes and ratio < LOW[0]:
        return judged(figure, ADVICE_LOW, wrong=ratio < LOW[1], suspicious=True)
    # the square of a margin grows with the square of the outputs
    high, worst = (limit ** getattr(getattr(module, "loss", None), "power", 1) for limit in HIGH[is_of_classes])
    return judged(figure, ADVICE_HIGH, wrong=ratio > worst, suspicious=ratio > high)
