"""Statistics over runs that differ in their seed alone."""

import math
import statistics
from collections.abc import Iterable
from typing import Any

from athanor.engine.runs.run import Run

# the 97.5 % quantiles of Student's distribution with 1, 2, ... degrees of freedom
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
T_975 += (2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)


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


def over_seeds(runs: list[Run]) -> list[list[Run]]:
    """Groups of two or more finished runs that differ in the seed alone."""
    finished = [run for run in runs if run.results.get("status") == "finished"]
    keys = dict.fromkeys(key for run in finished for key in settings(run) if key != "seed")
    return [group for group in groups(finished, keys) if len({run.results["seed"] for run in group}) == len(group) > 1]


def mean_and_deviation(values: list[float]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) of a sample; the deviation of a single value is 0."""
    mean = statistics.fmean(values)
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return mean, 0.0
    return mean, statistics.stdev(values)


def half_interval(deviation: float, n: int) -> float:
    """Half of the 95 % interval of the mean of n values, n at least 2: t(n - 1) s / sqrt(n)."""
    quantile = T_975[n - 2] if n - 2 < len(T_975) else statistics.NormalDist().inv_cdf(0.975)
    return quantile * deviation / math.sqrt(n)


def statistics_of(group: list[Run]) -> dict[str, dict[str, float]]:
    """Mean, standard deviation and ends of the 95 % interval of each val and test metric that all runs have."""
    table = {}
    for stage in "val", "test":
        shared = set.intersection(*(set(run.results.get(stage, {})) for run in group))
        for name in (name for name in group[0].results.get(stage, {}) if name in shared):
            mean, deviation = mean_and_deviation([run.results[stage][name] for run in group])
            half = half_interval(deviation, len(group))
            table[f"{stage}/{name}"] = {"mean": mean, "std": deviation, "low": mean - half, "high": mean + half}
    return table


def seed_rows(runs: list[Run]) -> list[dict[str, Any]]:
    """For results.csv: four rows for each group of seeds, whose `job` is mean, std, low and high."""
    rows = []
    for group in over_seeds(runs):
        table = statistics_of(group)
        for kind in "mean", "std", "low", "high":
            values = {metric: row[kind] for metric, row in table.items()}
            rows.append({"job": kind, "overrides": words(group), "status": f"of {len(group)} seeds", **values})
    return rows


def seed_lines(runs: list[Run], shared: set[str]) -> list[str]:
    """For the terminal: headlines with deviation and interval. Words that all jobs share are left out."""
    lines = []
    for group in over_seeds(runs):
        headline, table, scores = group[0].headline, statistics_of(group), []
        for metric in (name for name in (f"val/{headline}", f"test/{headline}") if name in table):
            texts = {kind: group[0].measures[headline].written(value) for kind, value in table[metric].items()}
            scores.append(f"{metric} {texts['mean']} +- {texts['std']} ({texts['low']} to {texts['high']})")
        differing = " ".join(word for word in words(group).split() if word not in shared)
        lines.append(f"  {len(group):>3} seeds  {'   '.join(scores)}   {differing}".rstrip())
    return ["", "  mean +- standard deviation over seeds (95 % interval of the mean)", *lines] if lines else []


def words(group: list[Run]) -> str:
    """What was typed for these runs, apart from the seed."""
    return " ".join(word for word in group[0].results["overrides"] if not word.startswith("seed="))
