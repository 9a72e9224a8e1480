"""The factor of each schedule at each step: a second implementation of the papers' formulas, with exact fractions."""

import math
from fractions import Fraction

UNITS = ("fraction", "epochs", "steps")


def half_cosine(share):
    return (1 - math.cos(math.pi * share)) / 2


def one_cycle(t, start=0.1, peak_at=Fraction(1, 4), floor=0.01):
    if t < peak_at:
        return start + (1 - start) * half_cosine(t / peak_at)
    return 1 - (1 - floor) * half_cosine((t - peak_at) / (1 - peak_at))


def cosine_restarts(t, floor=0.01):
    """Three cycles, 1 + 2 + 4 sevenths long; a new one begins with its first step."""
    for begin, end in ((Fraction(0), Fraction(1, 7)), (Fraction(1, 7), Fraction(3, 7)), (Fraction(3, 7), Fraction(1))):
        if t < end or end == 1:
            return 1 - (1 - floor) * half_cosine((t - begin) / (end - begin))


# settings that differ from the YAML's (times as fractions of the run), and the factor at time t
FORMS = {
    "constant": ({}, lambda t: 1.0),
    "step": ({"every": Fraction(1, 5), "gamma": 0.5}, lambda t, every: 0.5 ** math.floor(t / every)),
    "multistep": (
        {"milestones": [Fraction(2, 5), Fraction(4, 5)], "gamma": 0.3},
        lambda t, milestones: 0.3 ** sum(t >= milestone for milestone in milestones),
    ),
    "exponential": ({"gamma": 0.8}, lambda t: math.exp(t * math.log(0.8))),
    "inverse": ({"gamma": 3.0, "power": 0.5}, lambda t: 1 / math.sqrt(1 + 3 * t)),
    "one_over_t": ({"gamma": 2.5}, lambda t: 1 / (1 + 2.5 * t)),
    "polynomial": ({"power": 1.5, "floor": 0.02}, lambda t: 0.02 + 0.98 * math.sqrt(1 - t) ** 3),
    "cosine": ({"floor": 0.02}, lambda t: 1 - 0.98 * half_cosine(t)),
    "cosine_restarts": ({"cycles": 3, "growth": 2.0, "floor": 0.01}, cosine_restarts),
    "one_cycle": ({"start": 0.1, "peak_at": 0.25, "floor": 0.01}, one_cycle),
}
ENDING = ("polynomial", "cosine", "cosine_restarts", "one_cycle")  # these take a length, and end with their floor
FALLING = ("step", "multistep")
FLOORS = {name: FORMS[name][0]["floor"] for name in ENDING}


def whole(unit, total, per_epoch):
    """The length of the run in this unit."""
    return {"fraction": Fraction(1), "epochs": Fraction(total, per_epoch), "steps": Fraction(total)}[unit]


def knobs_of(name, unit, total, per_epoch):
    """The settings as exact numbers, times in this unit."""
    run, knobs = whole(unit, total, per_epoch), dict(FORMS[name][0])
    for key in "every", "milestones":
        if key in knobs:
            times = knobs[key] if key == "milestones" else [knobs[key]]
            # tenths, as a person would type them, in a run that is a few epochs long
            times = [max(Fraction(round(10 * time * run), 10), Fraction(1, 10)) for time in times]
            knobs[key] = times if key == "milestones" else times[0]
    if name in ENDING:
        knobs["length"] = run
    return knobs


def plain(knobs):
    """The settings as floats, as the command line has them."""
    shown = {k: [float(each) for each in v] if isinstance(v, list) else v for k, v in knobs.items()}
    return {k: float(v) if isinstance(v, Fraction) else v for k, v in shown.items()}


def factors(name, unit, total, per_epoch, warmup=0):
    """The factor of each step; `warmup` steps rise in a straight line to the first factor of the schedule itself."""
    knobs, form = knobs_of(name, unit, total, per_epoch), FORMS[name][1]
    times = {key: knobs[key] for key in ("every", "milestones") if key in knobs}
    values = []
    for step in range(warmup, total):
        if name in ENDING:
            t = Fraction(step - warmup, total - 1 - warmup)
        else:
            last = total if name in FALLING else total - 1  # one more drop in the last step would be one too many
            t = Fraction(step) / {"fraction": last, "epochs": per_epoch, "steps": 1}[unit]
        values.append(form(t, **times))
    return [(step + 1) / (warmup + 1) * values[0] for step in range(warmup)] + values
