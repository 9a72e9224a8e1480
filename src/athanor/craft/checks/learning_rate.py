"""The configured learning rate neither lets the loss of one batch rise nor leaves it as it is."""

import math
from statistics import mean

from athanor.craft.checks.finding import DoesNotApplyError, Finding, judged
from athanor.craft.checks.subject import Subject

FAST = True
STEPS = 20
LEAST_FALL = 0.002  # share of the first loss by which it falls in all steps
ADVICE = "find a rate with python scripts/lr_range.py"


def check(subject: Subject) -> Finding:
    module = subject.copy()
    if len(subject.optimizers) > 1 or not module.automatic_optimization:
        raise DoesNotApplyError("the module has several optimizers, or optimizes by hand")
    losses = [subject.step(module, subject.batch, step) for step in range(STEPS)]
    rate = subject.optimizers_of(module)[0].param_groups[0]["lr"]
    first, last = losses[0], mean(losses[-3:])
    figure = f"{first:.4g} to {last:.4g} in {STEPS} steps on one batch, learning rate {rate:g}"
    if not all(map(math.isfinite, losses)) or last > 1.5 * first or max(losses) > 20 * abs(first):
        return Finding("wrong", figure, f"the loss rises: the learning rate is too high, or a sign is wrong; {ADVICE}")
    return judged(
        figure,
        wrong=last > first * (1 - LEAST_FALL / 10),
        suspicious=last > first * (1 - LEAST_FALL),
        advice=f"the loss hardly falls: the learning rate is too low, or weights are not trained; {ADVICE}",
    )
