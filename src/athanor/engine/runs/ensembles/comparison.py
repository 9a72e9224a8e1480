"""study=ensembles: what averages of predictions and of weights gain over single networks, and what they cost."""

import csv
import io
import math
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from athanor.base.errors import UserError
from athanor.base.files import write_atomically
from athanor.engine.runs.ensembles import session
from athanor.engine.runs.repeats import groups, mean_and_deviation, settings
from athanor.engine.runs.run import Run
from athanor.engine.runs.study import Study

AVERAGED = ("ema", "swa")  # values of callbacks= whose runs are networks of averaged weights


@dataclass
class Way:
    """Of making predictions: scores on the test set, one for each seed or one for all, and what each costs."""

    name: str
    scores: list[dict[str, float]]
    trainings: float  # in those of a single network
    passes: int  # forward, an image
    best: float = math.nan  # accuracy of the best single network among those that it is made of, by validation

    def mean(self, metric: str) -> float:
        """Not a number where the scores lack it: a run's own results have no ece."""
        found = [score[metric] for score in self.scores if metric in score]
        return fmean(found) if found else math.nan


def ways(runs: list[Run]) -> list[Way]:
    """Of the runs of one data set, which differ in their seed and in `callbacks`."""
    kinds = {settings(group[0]).get("callbacks"): group for group in groups(runs, ["callbacks"])}
    plain = kinds.get("ensemble", [])
    if not plain:
        return []
    found = [Way("single", [run.results["test"] for run in plain], 1, 1)]
    kept = [run.results["ensemble"] for run in plain if "test" in run.results.get("ensemble", {})]
    if kept:
        passes = max(len(of["members"]) for of in kept)
        found.append(Way("checkpoints of one run", [of["test"]["ensemble"] for of in kept], 1, passes))
    found.append(Way("greedy soup of one run", [soup(run) for run in plain], 1, 1))
    seconds = fmean(run.results["fit_seconds"] for run in plain)
    for name in (name for name in AVERAGED if name in kinds):
        trainings = fmean(run.results["fit_seconds"] for run in kinds[name]) / seconds
        found.append(Way(name, [run.results["test"] for run in kinds[name]], trainings, 1))
    if len(plain) > 1:
        found.append(seeds(plain))
    return found


def seeds(runs: list[Run]) -> Way:
    """The mean of the probabilities of all seeds."""
    now = session.Session([str(run.dir) for run in runs], False, "none", "test")
    made = session.ensemble(now, "probabilities", "all", None)
    [report] = [report for report in now.reports(made) if report.stage == "test"]
    best = math.nan if now.best is None else report.members[report.names.index(now.best)]["acc"]
    return Way(f"{len(runs)} seeds", [report.combined], len(runs), made.passes, best)


def soup(run: Run) -> dict[str, float]:
    """Of the checkpoints that a run kept; a soup that is refused is the run as it is."""
    try:
        now = session.Session([str(run.dir)], True, "none", "test")
        made = session.soup(now, "greedy")
    except UserError:
        return run.results["test"]
    return next(report.combined for report in now.reports(made) if report.stage == "test")


def rows(found: list[Way]) -> list[dict[str, Any]]:
    """A row a way. gain: accuracy over the mean single network, in points and in standard errors of that mean."""
    single = found[0]
    mean, deviation = mean_and_deviation([score["acc"] for score in single.scores])
    error = deviation / math.sqrt(len(single.scores))
    made = []
    for way in found:
        acc, spread = mean_and_deviation([score["acc"] for score in way.scores])
        made.append(
            {
                "way": way.name,
                "n": len(way.scores),
                "test/acc": acc,
                "test/acc std": spread,
                "gain": acc - mean,
                "gain in standard errors": (acc - mean) / error if error and way is not single else math.nan,
                "test/loss": way.mean("loss"),
                "test/ece": way.mean("ece"),
                "best member": way.best,
                "trainings": way.trainings,
                "forward passes": way.passes,
            }
        )
    return made


def table(title: str, made: list[dict[str, Any]]) -> list[str]:
    lines = [f"  {title:24} {'test acc':>17}  {'gain':>7}  {'loss':>6}  {'ece':>6}  trainings  passes"]
    for row in made:
        acc = f"{row['test/acc']:.2%}" + (f" +- {row['test/acc std']:.2%}" if row["n"] > 1 else "")
        ece = "" if math.isnan(row["test/ece"]) else f"{row['test/ece']:.4f}"
        errors = "" if math.isnan(row["gain in standard errors"]) else f"  {row['gain in standard errors']:+.1f} SE"
        best = "" if math.isnan(row["best member"]) else f"; best member by validation {row['best member']:.2%}"
        lines.append(
            f"  {row['way']:24} {acc:>17}  {100 * row['gain']:+7.2f}  {row['test/loss']:6.4f}  {ece:>6}  "
            f"{row['trainings']:9.2f}  {row['forward passes']:6}{errors}{best}"
        )
    return [*lines, ""]


def written(made: dict[str, list[dict[str, Any]]]) -> str:
    """All tables as one CSV."""
    text = io.StringIO()
    names = ["setting", *next(iter(made.values()))[0]]
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    for title, found in made.items():
        writer.writerows({"setting": title, **row} for row in found)
    return text.getvalue()


def compare(study: Study) -> tuple[list[str], dict[str, list[dict[str, Any]]]]:
    """A table for each setting that jobs differ in besides seed and callbacks, as text and as rows; ensembles.csv."""
    keys = [key for key in study.varied if key != "callbacks"]
    made = {}
    for runs in groups(study.finished, keys):
        title = ", ".join(str(settings(runs[0]).get(key)) for key in keys) or study.name
        if found := ways(runs):
            made[title] = rows(found)
    if made:
        write_atomically(study.sweep.dir / "ensembles.csv", written(made))
    return [line for title, found in made.items() for line in table(title, found)], made
