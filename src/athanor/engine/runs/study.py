"""A study is a comparison: a multirun, with a table of its settings and a figure, as configs/study/<name>.yaml says."""

import csv
import io
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from athanor.base.files import write_atomically
from athanor.engine.runs.repeats import groups, mean_and_deviation, settings
from athanor.engine.runs.run import Run
from athanor.engine.runs.sweep import Sweep

COURSES = ("epoch", "step")  # an x along which a run's metrics.csv is drawn; any other x is a setting
TABLE = ("val/acc", "val/loss", "test/acc")


@dataclass
class Line:
    """Of a panel: settings that differ in what x says, and in the seed, of which y is the mean."""

    label: str
    x: list[float | str]
    y: list[float]
    deviation: list[float]


class Study:
    def __init__(self, name: str, node: dict[str, Any], sweep: Sweep) -> None:
        self.name, self.title, self.sweep = name, node["title"], sweep
        self.panels, self.compare = node.get("panels", []), node.get("compare")
        self.finished = [run for run in sweep.runs if run.results["status"] == "finished"]

    @cached_property
    def varied(self) -> list[str]:
        """The settings in which jobs differ, those that failed included; seeds only repeat a setting."""
        jobs = [settings(run) for run in self.sweep.runs]
        keys = dict.fromkeys(key for job in jobs for key in job)
        return [key for key in keys if key != "seed" and len({job.get(key) for job in jobs}) > 1]

    @property
    def left_out(self) -> list[str]:
        """What each job that did not finish was to try, and how it ended."""
        seeds = ["seed"] if len({settings(run).get("seed") for run in self.sweep.runs}) > 1 else []
        missing = [run for run in self.sweep.runs if run.results["status"] != "finished"]
        named = [(label(settings(run), [*self.varied, *seeds]) or run.dir.name, run) for run in missing]
        return [f"{name} ({run.results['status']})" for name, run in named]

    def lines(self, panel: dict[str, Any]) -> list[Line]:
        """What a panel shows, in the order of the sweep. Lines of which no job has values are not there."""
        x, y, best = panel["x"], panel["y"], panel.get("best")
        found = []
        for runs in groups(self.finished, [key for key in self.varied if key not in (x, best)]):
            points = course(runs, x, y) if x in COURSES else finals(runs, x, y, best)
            name = label(settings(runs[0]), [key for key in self.varied if key not in (x, best)])
            if points:
                found.append(Line(name, *map(list, zip(*points, strict=True))))
        return found

    def rows(self) -> list[dict[str, Any]]:
        """A row a setting, seeds averaged, the best on validation first: the test set chooses nothing."""
        rows = []
        for runs in groups(self.finished, self.varied):
            row = {key: settings(runs[0]).get(key) for key in self.varied} | {"n": len(runs)}
            for metric in TABLE:
                if values := [value for run in runs if (value := final(run, metric)) is not None]:
                    row[metric], row[f"{metric} std"] = mean_and_deviation(values)
            rows.append(row)
        return sorted(rows, key=lambda row: -row.get("val/acc", math.inf))

    def tabulate(self) -> list[str]:
        """Write study.csv and give the table as lines of text."""
        rows = self.rows()
        if not rows:
            return []
        names = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names)
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.sweep.dir / "study.csv", text.getvalue())
        width = max(len(label(row, self.varied)) for row in rows)
        return [f"  {label(row, self.varied):{width}}  {scores(row)}" for row in rows]


def scores(row: dict[str, Any]) -> str:
    parts = []
    for metric in (metric for metric in TABLE if metric in row):
        spec = ".2%" if metric.endswith("acc") else ".4f"
        deviation = f" +- {row[f'{metric} std']:{spec}}" if row["n"] > 1 else ""
        parts.append(f"{metric} {row[metric]:{spec}}{deviation}")
    return "   ".join([*parts, f"n={row['n']}"])


def label(values: dict[str, Any], keys: Iterable[str]) -> str:
    return ", ".join(f"{key}={values[key]}" for key in keys if values.get(key) is not None)


def course(runs: list[Run], x: str, metric: str) -> list[tuple]:
    """A metric in the course of training: x, mean and deviation, as far as all of these runs got."""
    courses = [values for run in runs if (values := logged(run, x, metric))]
    shared = sorted(set.intersection(*map(set, courses))) if courses else []
    return [(place, *mean_and_deviation([values[place] for values in courses])) for place in shared]


def logged(run: Run, x: str, metric: str) -> dict[float, float]:
    """The values of a metric in metrics.csv by step, or by the number of epochs that it took to get there."""
    try:
        with open(run.dir / "metrics.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["metric"] == metric]
    except FileNotFoundError:
        return {}
    if x == "step":
        return {int(row["step"]): float(row["value"]) for row in rows}
    a_step = run.results["epochs"] / max(1, run.results["steps"])  # lr has a step, and no epoch
    epochs = [int(row["epoch"]) + 1 if row["epoch"] else int(row["step"]) * a_step for row in rows]
    return {epoch: float(row["value"]) for epoch, row in zip(epochs, rows, strict=True)}


def finals(runs: list[Run], x: str, y: str, best: str | None) -> list[tuple]:
    """A number of results.json by a setting; with `best` the value of that setting which makes the number best."""
    points = []
    for same in groups(runs, [x]):
        tried = []
        for repeats in groups(same, [best] if best else []):
            if values := [value for run in repeats if (value := final(run, y)) is not None]:
                tried.append((*mean_and_deviation(values), settings(repeats[0]).get(best)))
        if tried and best:
            chosen = (min if y.endswith("loss") else max)(tried, key=lambda found: found[0])
            points.append((settings(same[0])[x], number(chosen[2]), 0.0))
        elif tried:
            points.append((settings(same[0])[x], *tried[0][:2]))
    try:
        return sorted((float(place), value, deviation) for place, value, deviation in points)
    except ValueError:  # names, as of schedulers
        return points


def number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def final(run: Run, key: str) -> float | None:
    """A number of results.json: val/acc, fit_seconds, data.train."""
    found: Any = run.results
    for part in re.split("[./]", key):
        found = found.get(part) if isinstance(found, dict) else None
    return found if isinstance(found, (int, float)) else None
