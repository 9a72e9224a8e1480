"""The figure of a study: a panel for each that its YAML names."""

import textwrap
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from athanor.craft.figure import COLOURS, new_figure, save_figure
from athanor.engine.config.check_study import COURSES
from athanor.engine.runs.study import Line, Study
from athanor.tasks.measure import measure_of

DASHES = ("-", "--", ":", "-.")  # of the first eight lines, the next eight, ...: there are eight colours
MAX_TICKS = 12  # more values of a setting than this get the usual ticks


def conclude(study: Study) -> tuple[list[str], Path | None]:
    """Draw the panels into figures/<name>.png of the sweep. Gives no further lines, and None for the path where no job
    has anything to show.
    """
    panels = [study.lines(panel) for panel in study.panels]
    labels = list(dict.fromkeys(line.label for lines in panels for line in lines))
    if not labels:
        return [], None
    figure, axes = new_figure(study.title, len(panels))
    styles = dict(zip(labels, cycle(product(DASHES, COLOURS)), strict=False))
    for axis, panel, lines in zip(axes, study.panels, panels, strict=True):
        for line in lines:
            draw_line(axis, panel, line, *styles[line.label])
        label_axis(axis, panel, lines, study)
    add_legend(figure, axes)
    if study.left_out:
        figure.supxlabel(textwrap.fill(f"left out: {', '.join(study.left_out)}", 80 * len(axes)), fontsize=8)
    return [], save_figure(figure, study.sweep.dir / "figures" / f"{study.name}.png")


def draw_line(axis: Axes, panel: dict[str, Any], line: Line, dashes: str, colour: str) -> None:
    """A course of training has its deviation as a band, values at settings have error bars."""
    style = {"color": colour, "linestyle": dashes, "linewidth": 1.5, "label": line.label}
    if panel["x"] not in COURSES:
        deviations = line.deviation if any(line.deviation) else None
        axis.errorbar(line.x, line.y, deviations, capsize=3, marker="o", **style)
        return
    axis.plot(line.x, line.y, **style)
    if any(line.deviation):
        low, high = np.subtract(line.y, line.deviation), np.add(line.y, line.deviation)
        axis.fill_between(line.x, low, high, color=colour, alpha=0.2, linewidth=0)


def label_axis(axis: Axes, panel: dict[str, Any], lines: list[Line], study: Study) -> None:
    """Names, scales and ticks; the ticks of a setting are at the values that were tried."""
    x, y, best = panel["x"], panel["y"], panel.get("best")
    axis.set(xlabel=x, ylabel=f"{best} with the best {y}" if best else y)
    if not lines:
        axis.text(0.5, 0.5, f"no job has {y}", ha="center", va="center", transform=axis.transAxes)
        return
    axis.set(**{f"{name}scale": "log" for name in "xy" if panel.get(f"log_{name}")})
    measure = measure_of(y, study.measures)
    if measure and measure.unit == "%" and not best:
        axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
    if x in COURSES:
        axis.locator_params(axis="x", integer=True)
    else:
        tick_at_values(axis.xaxis, [place for line in lines for place in line.x])
    if best:
        tick_at_values(axis.yaxis, [value for line in lines for value in line.y])
    axis.set_ylim(panel.get("y_range"))


def tick_at_values(axis: Any, values: list[float | str]) -> None:
    """Ticks of an x or y axis at these values and nowhere else, where they are numbers and not too many."""
    values = sorted(set(values)) if all(isinstance(value, float) for value in values) else []
    if values and len(values) <= MAX_TICKS:
        axis.set_ticks([], minor=True)
        axis.set_ticks(values, [f"{value:g}" for value in values])


def add_legend(figure: Figure, axes: list[Axes]) -> None:
    """One legend for all panels, beside them: inside a panel it would hide lines."""
    by_label: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            by_label.setdefault(label, handle)
    if len(by_label) > 1:
        figure.set_figwidth(figure.get_figwidth() + 1.5)
        figure.legend(by_label.values(), by_label.keys(), loc="outside right upper", fontsize=8)
