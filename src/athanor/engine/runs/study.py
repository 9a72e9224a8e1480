"""A study is a comparison: a multirun, with a table of its settings and a figure, as configs/study/<name>.yaml says."""

import csv
import math
import pkgutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from athanor.base.error_place import told
from athanor.base.files import write_csv
from athanor.engine.config.check_study import COURSES
from athanor.engine.runs.repeats import REPEATS, groups, mean_and_deviation, numbers_of, settings
from athanor.engine.runs.run import Run, shown
from athanor.engine.runs.sweep import Sweep
from athanor.tasks.measure import LOSS, measure_of

PANELS_FIGURE = "athanor.engine.runs.study_figure.conclude"  # where a study names no function of its own


@dataclass
class Line:
    """A line in a panel: the mean over runs that differ in nothing but what x says and what repeats."""

    label: str
    x: list[float | str]
    y: list[float]
    deviation: list[float]


class Study:
    """The jobs of a sweep when all have ended. `node` is the study's node of the config: title, panels, conclude."""

    def __init__(self, name: str, node: dict[str, Any], sweep: Sweep) -> None:
        self.name = name
        self.title = node["title"]
        self.panels = node.get("panels", [])
        self.sweep = sweep
        self.finished = [run for run in sweep.runs if run.results["status"] == "finished"]
        self.measures = self.finished[0].measures if self.finished else {}

    @cached_property
    def differing(self) -> list[str]:
        """The settings in which jobs differ, those that failed included."""
        jobs = [settings(run) for run in self.sweep.runs]
        keys = dict.fromkeys(key for job in jobs for key in job)
        return [key for key in keys if len({job.get(key) for job in jobs}) > 1]

    @property
    def varied(self) -> list[str]:
        """Those of them that are compared; the others, such as the seed, only repeat a setting."""
        return [key for key in self.differing if key not in REPEATS]

    @property
    def left_out(self) -> list[str]:
        """For each job that did not finish: its settings, and how it ended."""
        unfinished = [run for run in self.sweep.runs if run.results["status"] != "finished"]
        labels = [settings_label(settings(run), self.differing) or run.dir.name for run in unfinished]
        return [f"{label} ({run.results['status']})" for label, run in zip(labels, unfinished, strict=True)]

    def lines(self, panel: dict[str, Any]) -> list[Line]:
        """What a panel shows, in the order of the sweep. A line for which no job has values is left out."""
        x, y, best = panel["x"], panel["y"], panel.get("best")
        keys = [key for key in self.varied if key not in (x, best)]
        lines = []
        for runs in groups(self.finished, keys):
            points = course_points(runs, x, y) if x in COURSES else self.setting_points(runs, x, y, best)
            if points:
                lines.append(Line(settings_label(settings(runs[0]), keys), *map(list, zip(*points, strict=True))))
        return lines

    def rows(self) -> list[dict[str, Any]]:
        """A row for each setting, averaged over repeats, the best by the monitored metric first."""
        headline, rows = next(iter(self.measures), "loss"), []
        for runs in sorted(groups(self.finished, self.varied), key=self.sweep.cost):
            row = {key: settings(runs[0]).get(key) for key in self.varied} | {"n": len(runs)}
            for metric in dict.fromkeys([f"val/{headline}", "val/loss", f"test/{headline}"]):
                if values := numbers_of(runs, metric):
                    row[metric], row[f"{metric} std"] = mean_and_deviation(values)
            rows.append(row)
        return rows

    def rank(self, metric: str, value: float) -> float:
        """A number that is the smaller the better this value of a metric is; metrics of no measure count upwards."""
        measure = measure_of(metric, self.measures)
        if math.isnan(value):
            return math.inf
        return value if measure and measure.mode == "min" else -value

    def written(self, metric: str, value: float) -> str:
        return (measure_of(metric, self.measures) or LOSS).written(value)

    def tabulate(self) -> list[str]:
        """Write study.csv and give the table as lines of text; nothing where no job has finished."""
        rows = self.rows()
        if not rows:
            return []
        write_csv(self.sweep.dir / "study.csv", rows)
        labels = [settings_label(row, self.varied) for row in rows]
        width = max(map(len, labels))
        return [f"  {label:{width}}  {self.row_scores(row)}" for label, row in zip(labels, rows, strict=True)]

    def row_scores(self, row: dict[str, Any]) -> str:
        """The metrics of a row with their deviations, and the number of runs."""
        parts = []
        for metric in (key for key in row if f"{key} std" in row):
            deviation = f" +- {self.written(metric, row[f'{metric} std'])}" if row["n"] > 1 else ""
            parts.append(f"{metric} {self.written(metric, row[metric])}{deviation}")
        return "   ".join([*parts, f"n={row['n']}"])

    def setting_points(self, runs: list[Run], x: str, y: str, best: str | None) -> list[tuple]:
        """A number of results.json against a setting x, as x, mean and deviation.

        With `best`, y is the value of that other setting for which the number is best.
        """
        points = []
        for same_x in groups(runs, [x]):
            candidates = [
                (*mean_and_deviation(values), settings(repeats[0]).get(best))
                for repeats in groups(same_x, [best] if best else [])
                if (values := numbers_of(repeats, y))
            ]
            if candidates:
                value, deviation, setting = min(candidates, key=lambda row: self.rank(y, row[0]))
                if best:
                    value, deviation = number_or_text(setting), 0.0
                points.append((settings(same_x[0])[x], value, deviation))
        try:
            return sorted((float(place), value, deviation) for place, value, deviation in points)
        except ValueError:  # names, as of schedulers
            return points


def conclude_study(name: str, node: dict[str, Any], sweep: Sweep) -> list[str]:
    """Write the table and the figure of a study; gives lines to print: the table, and where the figure is.

    The figure is that of the panels, or what the function of the dotted name `conclude` in the study's YAML makes. It
    takes the Study, and returns further lines and the path of a figure, or None where there is nothing to draw.
    The results of the jobs are written already, so whatever goes wrong here is one line on stderr.
    """
    lines = []
    try:
        study = Study(name, node, sweep)
        lines += study.tabulate()
        further, figure = pkgutil.resolve_name(node.get("conclude", PANELS_FIGURE))(study)
        lines += [*further, ""]
        if study.left_out:
            lines.append(f"  left out: {', '.join(study.left_out)}")
        if figure:
            lines.append(f"  {shown(figure)}; {shown(sweep.dir / 'study.csv')}")
        else:
            lines.append("  nothing to draw: no job has what the study shows")
    except Exception as error:
        print(f"error: the study is not drawn: {told(error) or ' '.join(str(error).split())}", file=sys.stderr)
    return lines


def settings_label(values: dict[str, Any], keys: Iterable[str]) -> str:
    return ", ".join(f"{key}={values[key]}" for key in keys if values.get(key) is not None)


def course_points(runs: list[Run], x: str, metric: str) -> list[tuple]:
    """A metric in the course of training, as x, mean and deviation, as far as all of these runs got."""
    courses = [values for run in runs if (values := logged_values(run, x, metric))]
    shared = sorted(set.intersection(*map(set, courses))) if courses else []
    return [(place, *mean_and_deviation([values[place] for values in courses])) for place in shared]


def logged_values(run: Run, x: str, metric: str) -> dict[float, float]:
    """The values of a metric in metrics.csv by step, or by the number of epochs trained until then."""
    try:
        with open(run.dir / "metrics.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["metric"] == metric]
    except FileNotFoundError:
        return {}
    if x == "step":
        return {int(row["step"]): float(row["value"]) for row in rows}
    epochs_a_step = run.results["epochs"] / max(1, run.results["steps"])  # lr is logged with a step and no epoch
    epochs = [int(row["epoch"]) + 1 if row["epoch"] else int(row["step"]) * epochs_a_step for row in rows]
    return {epoch: float(row["value"]) for epoch, row in zip(epochs, rows, strict=True)}


def number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
