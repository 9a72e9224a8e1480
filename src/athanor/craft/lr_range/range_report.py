"""Tables and figures of learning-rate range tests: of one test, and of several that are compared."""

import math
from statistics import median

from matplotlib.figure import Figure

from athanor.craft.figure import COLOURS, new_figure
from athanor.craft.lr_range.range_test import RULES, RangeTest

MEANING = {
    "minimum": "a fifth of the rate with the lowest loss",
    "steepest": "where the loss falls most",
}


def rules_table(test: RangeTest, used: str) -> str:
    """A row for each rule: its answer, the range of the answers of the single sweeps, and its meaning.

    used: the rule whose answer is marked.
    """
    steps = sum(len(sweep.lrs) for sweep in test.sweeps)
    lines = [f"learning-rate range test: sweeps {len(test.sweeps)}, steps {steps}"]
    for rule in RULES:
        answers, mark = test.answers(rule), "->" if rule == used else "  "
        between = f"({min(answers):.1e} to {max(answers):.1e})" if len(answers) > 1 else ""
        lines.append(f"  {mark} {rule:9} {test.suggestion(rule):<8.2g} {between:24} {MEANING[rule]}")
    return "\n".join(lines)


def draw_range_test(test: RangeTest, used: str, title: str = "learning-rate range test") -> Figure:
    """Loss against learning rate: each sweep as measured and smoothed, and the answers of the rules."""
    figure, [axis] = new_figure(title)
    for sweep in test.sweeps:
        axis.plot(sweep.lrs, sweep.losses, color="0.8", linewidth=0.8, zorder=1)
        axis.plot(sweep.lrs, sweep.smoothed, color=COLOURS[0], linewidth=1, alpha=0.4, zorder=2)
    lrs, losses = median_curve(test)
    axis.plot(lrs, losses, color=COLOURS[0], linewidth=2, label="smoothed, median of sweeps", zorder=3)
    for colour, style, rule in zip(COLOURS[1:], ("--", ":"), RULES, strict=False):
        lr = test.suggestion(rule)
        axis.axvline(lr, color=colour, linestyle=style, label=f"{rule}: {lr:g}{' (used)' if rule == used else ''}")
    axis.set(xscale="log", ylim=loss_limits(losses), xlabel="learning rate", ylabel="training loss")
    axis.legend(fontsize=8, loc="lower left")
    return figure


def comparison_table(tests: dict[str, RangeTest], setting: str, used: str) -> str:
    """A row for each value of a setting: the answer of the rule `used`, and the range of its sweeps' answers."""
    lines = [f"  {setting:20} {used:>10}   {'the sweeps say':^22}"]
    for value, test in tests.items():
        answers = test.answers(used)
        lines.append(f"  {value:20} {test.suggestion(used):>10.2g}   {min(answers):.1e} to {max(answers):.1e}")
    return "\n".join(lines)


def draw_comparison(tests: dict[str, RangeTest], setting: str, used: str) -> Figure:
    """Left the curve of each value of a setting, right the answer against the value, with those of single sweeps."""
    figure, [curves, answers] = new_figure(f"learning-rate range tests: {setting}", panels=2)
    all_losses = []
    for value, test in tests.items():
        lrs, losses = median_curve(test)
        curves.plot(lrs, losses, label=value)
        all_losses += losses
    curves.set(xscale="log", ylim=loss_limits(all_losses), xlabel="learning rate", ylabel="training loss, smoothed")
    curves.legend(fontsize=8, title=setting, title_fontsize=8)
    places, xscale = tick_places(list(tests))
    for place, test in zip(places, tests.values(), strict=True):
        answers.plot([place] * len(test.sweeps), test.answers(used), "o", color="0.75", markersize=4)
    answers.plot(places, [test.suggestion(used) for test in tests.values()], "o-", color=COLOURS[0])
    answers.set(xscale=xscale, yscale="log", xlabel=setting, ylabel=f"learning rate ({used})")
    answers.set_xticks(places, list(tests))
    answers.xaxis.minorticks_off()
    return figure


def tick_places(values: list[str]) -> tuple[list[float], str]:
    """Where the values of a setting lie on an axis, and its scale: by logarithm where all values are numbers above 0,
    else one after another.
    """
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        numbers = [0.0]
    if min(numbers) > 0:
        return numbers, "log"
    return [float(number) for number in range(len(values))], "linear"


def median_curve(test: RangeTest) -> tuple[list[float], list[float]]:
    """Learning rates, and at each the median of the sweeps' smoothed losses, as far as the shortest sweep went."""
    smoothed = [sweep.smoothed for sweep in test.sweeps]
    losses = [median(at_rate) for at_rate in zip(*smoothed, strict=False)]
    return test.sweeps[0].lrs[: len(losses)], losses


def loss_limits(losses: list[float]) -> tuple[float, float]:
    """Limits of the loss axis: the fall and part of the rise. A diverging loss would leave no room for the rest."""
    start, low = losses[0], min(losses)
    height = max(start - low, 0.05 * abs(start), math.ulp(1))
    return low - 0.35 * height, start + 0.35 * height
