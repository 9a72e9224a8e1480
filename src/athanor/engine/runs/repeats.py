"""Statistics over runs that repeat one another: with another seed, another fold or another split."""

import math
import re
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from athanor.engine.runs.run import Run
from athanor.tasks.measure import LOSS, measure_of, stage_and_name

REPEATS = {"data.split_seed": "splits", "data.fold": "folds", "seed": "seeds"}  # settings that only repeat, in words


def settings(run: Run) -> dict[str, str]:
    """The overrides of a run: value by key, as text."""
    words = (word.lstrip("+").partition("=") for word in run.results.get("overrides", []))
    return {key: value for key, _, value in words if key != "resume"}


def groups(runs: list[Run], keys: Iterable[str]) -> list[list[Run]]:
    """Runs grouped by these settings, in the order of the sweep."""
    keys, by_values = list(keys), {}
    for run in runs:
        by_values.setdefault(tuple(settings(run).get(key) for key in keys), []).append(run)
    return list(by_values.values())


def settings_groups(runs: list[Run]) -> list[list[Run]]:
    """Runs grouped by all settings but those that only repeat."""
    return groups(runs, dict.fromkeys(key for run in runs for key in settings(run) if key not in REPEATS))


def repeated(runs: list[Run]) -> list[list[Run]]:
    """Groups of two or more finished runs that differ in nothing but what repeats, and no two of which are equal."""
    finished = [run for run in runs if run.results.get("status") == "finished"]
    return [group for group in settings_groups(finished) if len(groups(group, REPEATS)) == len(group) > 1]


def units(group: list[Run]) -> list[list[Run]]:
    """What an interval counts as one value: a run; or the mean over seeds where the split differs as well, because
    runs that share their validation images are no independent values.
    """
    by_split = groups(group, [key for key in REPEATS if key != "seed"])
    return by_split if len(by_split) > 1 else [[run] for run in group]


def counted(group: list[Run]) -> str:
    """What a group repeats: `5 seeds`, `3 folds`, `3 folds of 5 seeds`."""
    numbers = {name: len(groups(group, [key])) for key, name in REPEATS.items()}
    return " of ".join(f"{number} {name}" for name, number in numbers.items() if number > 1)


def mean_and_deviation(values: list[float]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) of a sample; the deviation of a single value is 0."""
    mean = statistics.fmean(values)
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return mean, 0.0
    return mean, statistics.stdev(values)


def student_quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's distribution with 1 to 10,000 degrees of freedom, to 6 digits.

    The angle a of t = sqrt(degrees) tan(a) has a density proportional to cos(a)^(degrees - 1), which is integrated.
    """
    import numpy as np  # takes 0.1 s, and few commands need it

    angles = np.linspace(0, math.pi / 2, 100_001)
    middles = (angles[1:] + angles[:-1]) / 2
    shares = np.cumsum(np.cos(middles) ** (degrees - 1))
    angle = np.interp(0.95, shares / shares[-1], angles[1:])
    return math.sqrt(degrees) * math.tan(angle)


def half_interval(deviation: float, n: int) -> float:
    """Half of the 95 % interval of the mean of n values, n at least 2: t(n - 1) s / sqrt(n)."""
    return student_quantile(n - 1) * deviation / math.sqrt(n)


def numbers_of(runs: list[Run], key: str) -> list[float]:
    """A number of results.json of each run that has it: val/acc, fit_seconds, data.train."""
    numbers = []
    for run in runs:
        value: Any = run.results
        for part in re.split("[./]", key):
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, (int, float)):
            numbers.append(value)
    return numbers


def monitored_cost(runs: list[Run], monitor: dict[str, str]) -> float:
    """The mean of the monitored metric over runs as a number that is the smaller the better it is.

    Infinite where a run has not finished, or has no finite value. monitor: metric and mode, as in the config.
    """
    stage, name = stage_and_name(monitor["metric"])
    values = [run.results.get(stage, {}).get(name, math.nan) for run in runs if run.results["status"] == "finished"]
    if len(values) < len(runs) or not all(map(math.isfinite, values)):
        return math.inf
    return statistics.fmean(values) if monitor["mode"] == "min" else -statistics.fmean(values)


def statistics_of(group: list[Run]) -> dict[str, dict[str, float]]:
    """Mean, standard deviation and ends of the 95 % interval of each val and test metric that all runs have.

    Folds share training images, so that an interval over folds is a little too narrow (Bengio and Grandvalet 2004).
    The interval is cut where it leaves the values that the metric can have, as an accuracy of 0 to 100 %.
    """
    table, parts, measures = {}, units(group), group[0].measures
    for stage in "val", "test":
        shared = set.intersection(*(set(run.results.get(stage, {})) for run in group))
        for name in (name for name in group[0].results.get(stage, {}) if name in shared):
            means = [statistics.fmean(run.results[stage][name] for run in unit) for unit in parts]
            mean, deviation = mean_and_deviation(means)
            half, measure = half_interval(deviation, len(means)), measure_of(f"{stage}/{name}", measures) or LOSS
            low, high = measure.within(mean - half), measure.within(mean + half)
            table[f"{stage}/{name}"] = {"mean": mean, "std": deviation, "low": low, "high": high}
    return table


def repeat_rows(runs: list[Run]) -> list[dict[str, Any]]:
    """For results.csv: four rows for each group of repeats, whose `job` is mean, std, low and high."""
    rows = []
    for group in repeated(runs):
        table = statistics_of(group)
        for kind in "mean", "std", "low", "high":
            values = {metric: row[kind] for metric, row in table.items()}
            rows.append({"job": kind, "overrides": words(group), "status": f"of {counted(group)}", **values})
    return rows


def repeat_lines(groups: list[list[Run]], shared: set[str], marks: dict[Path, str]) -> list[str]:
    """For the terminal: headlines with deviation and interval. Words that all jobs share are left out.

    marks: what to write behind a group of runs, by the directory of its first.
    """
    lines = []
    for group in groups:
        headline, table, scores = group[0].headline, statistics_of(group), []
        for metric in (name for name in (f"val/{headline}", f"test/{headline}") if name in table):
            texts = {kind: group[0].measures[headline].written(value) for kind, value in table[metric].items()}
            scores.append(f"{metric} {texts['mean']} +- {texts['std']} ({texts['low']} to {texts['high']})")
        differing = " ".join(word for word in words(group).split() if word not in shared)
        mark = marks.get(group[0].dir, "")
        lines.append(f"  {counted(group):>9}  {'   '.join(scores)}   {differing}{mark}".rstrip())
    return ["", "  mean +- standard deviation of repeats (95 % interval of the mean)", *lines] if lines else []


def words(group: list[Run]) -> str:
    """What was typed for these runs, apart from what repeats."""
    return " ".join(word for word in group[0].results["overrides"] if word.lstrip("+").partition("=")[0] not in REPEATS)
