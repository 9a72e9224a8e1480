"""The configured learning rate neither lets the loss of one batch rise nor leaves it as it is."""

import math
from statistics import mean

from athanor.craft.checks.finding import Finding, judged
from athanor.craft.checks.subject import Subject

FAST = True
STEPS = 20
LEAST_FALL = 0.002  # share of the first loss by which it falls in all steps, else it is suspicious; a tenth: wrong
ADVICE = "find a rate with python scripts/lr_range.py"


def check(subject: Subject) -> Finding:
    module = subject.single_optimizer()
    losses = [subject.step(module, subject.batch, step) for step in range(STEPS)]
    rate = subject.optimizers_of(module)[0].param_groups[0]["lr"]
    first, last, scale = losses[0], mean(losses[-3:]), abs(losses[0])
    figure = f"{first:.4g} to {last:.4g} in {STEPS} steps on one batch, learning rate {rate:g}"
    if not all(map(math.isfinite, losses)) or last - first > 0.5 * scale or max(losses) > 20 * scale:
        warms_up = subject.optimizers[0].param_groups[0]["lr"] < rate  # so that training does not begin with this rate
        advice = f"the loss rises: the learning rate is too high, or a sign is wrong; {ADVICE}"
        return judged(figure, advice, wrong=not warms_up, suspicious=True)
    fall = first - last
    return judged(
        figure,
        f"the loss hardly falls: the learning rate is too low, or weights are not trained; {ADVICE}",
        wrong=fall < scale * LEAST_FALL / 10,
        suspicious=fall < scale * LEAST_FALL,
    )
