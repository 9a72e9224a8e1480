"""The figure of a study."""

import textwrap
from itertools import cycle, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from athanor.craft.figure import COLOURS, new_figure, save
from athanor.engine.runs.study import COURSES, Line, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHES = ("-", "--", ":", "-.")  # of lines beyond the eighth, which has the last colour
MAX_TICKS = 12  # that are values of a setting


def conclusion(study: Study) -> tuple[list[str], Path | None]:
    """What is said besides the table, and the figure, figures/<name>.png in the sweep, if there is anything to show."""
    path = study.sweep.dir / "figures" / f"{study.name}.png"
    if study.compare is None:
        return [], draw(study, path)
    from athanor.engine.runs.ensembles import comparison_figure
    from athanor.engine.runs.ensembles.comparison import compare  # torch and all; other studies need numbers only

    tables, rows = compare(study)
    return ["", *tables], comparison_figure.draw(study.title, rows, path) if rows else None


def draw(study: Study, path: Path) -> Path | None:
    """None where no job has anything to show."""
    panels = [study.lines(panel) for panel in study.panels]
    labels = list(dict.fromkeys(line.label for lines in panels for line in lines))
    if not labels:
        return None
    figure, axes = new_figure(study.title, len(panels))
    looks = dict(zip(labels, cycle(product(DASHES, COLOURS)), strict=False))
    for axis, panel, lines in zip(axes, study.panels, panels, strict=True):
        for line in lines:
            plot(axis, panel, line, *looks[line.label])
        describe(axis, panel, lines)
    add_legend(figure, axes)
    if study.left_out:
        figure.supxlabel(textwrap.fill(f"left out: {', '.join(study.left_out)}", 80 * len(axes)), fontsize=8)
    return save(figure, path)


def plot(axis: "Axes", panel: dict[str, Any], line: Line, dashes: str, colour: str) -> None:
    look = {"color": colour, "linestyle": dashes, "linewidth": 1.5, "label": line.label}
    x = line.x
    if panel["x"] not in COURSES:
        look["marker"] = "o"
    if any(line.deviation) and panel["x"] not in COURSES:
        axis.errorbar(x, line.y, line.deviation, capsize=3, **look)
        return
    axis.plot(x, line.y, **look)
    if any(line.deviation):
        pairs = list(zip(line.y, line.deviation, strict=True))
        axis.fill_between(x, [y - s for y, s in pairs], [y + s for y, s in pairs], color=colour, alpha=0.2, linewidth=0)


def describe(axis: "Axes", panel: dict[str, Any], lines: list[Line]) -> None:
    """Names, scales and ticks: a setting has them at the values that were tried."""
    best = panel.get("best")
    axis.set_xlabel(panel["x"])
    axis.set_ylabel(f"{best} with the best {panel['y']}" if best else panel["y"])
    if not lines:
        axis.text(0.5, 0.5, f"no job has {panel['y']}", ha="center", va="center", transform=axis.transAxes)
        return
    if panel.get("log_x"):
        axis.set_xscale("log")
    if panel.get("log_y"):
        axis.set_yscale("log")
    if panel["y"].endswith("acc") and not best:
        axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
    if panel["x"] in COURSES:
        axis.locator_params(axis="x", integer=True)
    else:
        tick_at_values(axis.xaxis, [x for line in lines for x in line.x])
    if best:
        tick_at_values(axis.yaxis, [y for line in lines for y in line.y])
    if "y_range" in panel:
        axis.set_ylim(*panel["y_range"])


def tick_at_values(axis: Any, values: list[float | str]) -> None:
    values = sorted(set(values)) if all(isinstance(value, float) for value in values) else []
    if values and len(values) <= MAX_TICKS:
        axis.set_ticks([], minor=True)
        axis.set_ticks(values, [f"{value:g}" for value in values])


def add_legend(figure: "Figure", axes: list["Axes"]) -> None:
    """One for all panels, beside them: inside it would hide lines."""
    by_label: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            by_label.setdefault(label, handle)
    if len(by_label) > 1:
        figure.set_figwidth(figure.get_figwidth() + 1.5)
        figure.legend(by_label.values(), by_label.keys(), loc="outside right upper", fontsize=8)
