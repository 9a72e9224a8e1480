"""A range test as a table and as a figure."""

import math
from statistics import median
from typing import TYPE_CHECKING

from athanor.craft.figure import COLOURS, new_figure
from athanor.craft.lr_range.range_test import RULES, RangeTest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEANING = {
    "minimum": "a tenth of the rate with the lowest loss",
    "steepest": "where the loss falls most",
    "valley": "middle of the longest fall",
}


def table(test: RangeTest, used: str) -> str:
    """The rules side by side: answer, what the sweeps' answers lie between, and the loss there."""
    steps = sum(len(sweep.lrs) for sweep in test.sweeps)
    lines = [f"learning-rate range test: sweeps {len(test.sweeps)}, steps {steps}"]
    for rule in RULES:
        found, mark = test.found(rule), "->" if rule == used else "  "
        between = f"({min(found):.1e} to {max(found):.1e})" if len(found) > 1 else ""
        lines.append(f"  {mark} {rule:9} {test.suggestion(rule):<8.2g} {between:24} {MEANING[rule]}")
    return "\n".join(lines)


def draw(test: RangeTest, used: str, title: str = "learning-rate range test") -> "Figure":
    """Loss against learning rate: each sweep raw and smoothed, and the answers of the rules."""
    figure, [axis] = new_figure(title)
    for sweep in test.sweeps:
        axis.plot(sweep.lrs, sweep.losses, color="0.8", linewidth=0.8, zorder=1)
        axis.plot(sweep.lrs, sweep.smoothed, color=COLOURS[0], linewidth=1, alpha=0.4, zorder=2)
    middle = middle_curve(test)
    axis.plot(*zip(*middle, strict=True), color=COLOURS[0], linewidth=2, label="smoothed, median of sweeps", zorder=3)
    for colour, style, rule in zip(COLOURS[1:], ("--", ":", "-."), RULES, strict=False):
        lr = test.suggestion(rule)
        axis.axvline(lr, color=colour, linestyle=style, label=f"{rule}: {lr:g}{' (used)' if rule == used else ''}")
    axis.set_xscale("log")
    axis.set_ylim(*limits([loss for _, loss in middle]))
    axis.set_xlabel("learning rate")
    axis.set_ylabel("training loss")
    axis.legend(fontsize=8, loc="lower left")
    return figure


def compare(tests: dict[str, RangeTest], axis: str, used: str) -> str:
    """A row a value of the setting."""
    lines = [f"  {axis:20} {used:>10}   {'the sweeps say':^22}"]
    for value, test in tests.items():
        found = test.found(used)
        lines.append(f"  {value:20} {test.suggestion(used):>10.2g}   {min(found):.1e} to {max(found):.1e}")
    return "\n".join(lines)


def draw_axis(tests: dict[str, RangeTest], axis: str, used: str) -> "Figure":
    """The curves of all values of a setting, and the answer against the value, with what the sweeps say."""
    figure, [curves, answers] = new_figure(f"learning-rate range tests: {axis}", panels=2)
    middles = {value: middle_curve(test) for value, test in tests.items()}
    for value, middle in middles.items():
        curves.plot(*zip(*middle, strict=True), label=value)
    curves.set_xscale("log")
    curves.set_ylim(*limits([loss for middle in middles.values() for _, loss in middle]))
    curves.set(xlabel="learning rate", ylabel="training loss, smoothed")
    curves.legend(fontsize=8, title=axis, title_fontsize=8)
    places, is_scale = positions(list(tests))
    for place, test in zip(places, tests.values(), strict=True):
        answers.plot([place] * len(test.sweeps), test.found(used), "o", color="0.75", markersize=4)
    answers.plot(places, [test.suggestion(used) for test in tests.values()], "o-", color=COLOURS[0])
    if is_scale:
        answers.set_xscale("log")
    answers.set_xticks(places, list(tests))
    answers.minorticks_off()
    answers.set_yscale("log")
    answers.set(xlabel=axis, ylabel=f"learning rate ({used})")
    return figure


def positions(values: list[str]) -> tuple[list[float], bool]:
    """Where the values of a setting lie: by their logarithm where all are numbers above 0, else one after another."""
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        numbers = [0.0]
    if min(numbers) > 0:
        return numbers, True
    return [float(number) for number in range(len(values))], False


def middle_curve(test: RangeTest) -> list[tuple[float, float]]:
    """As far as the shortest sweep went."""
    steps = min(len(sweep.lrs) for sweep in test.sweeps)
    smoothed = [sweep.smoothed for sweep in test.sweeps]
    return [(test.sweeps[0].lrs[i], median(values[i] for values in smoothed)) for i in range(steps)]


def limits(losses: list[float]) -> tuple[float, float]:
    """The fall and some of the rise: a diverging loss would flatten all that matters."""
    start, low = losses[0], min(losses)
    height = max(start - low, 0.05 * abs(start), math.ulp(1))
    return low - 0.35 * height, start + 0.35 * height
