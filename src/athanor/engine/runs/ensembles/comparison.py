"""The conclusion of study=ensembles: what averages of predictions and of weights gain, and what they cost."""

import math
from pathlib import Path
from statistics import fmean
from typing import Any

from athanor.base.errors import UserError
from athanor.base.files import write_csv
from athanor.craft.ensembles.combine import MEASURES
from athanor.craft.figure import COLOURS, new_figure, save_figure
from athanor.engine.runs.ensembles.session import Session, make_ensemble, make_soup
from athanor.engine.runs.repeats import groups, mean_and_deviation, settings
from athanor.engine.runs.run import Run
from athanor.engine.runs.study import Study

HEADLINE = next(iter(MEASURES))
METRIC = f"test/{HEADLINE}"
AVERAGED = ("ema", "swa")  # values of callbacks= whose runs are networks of averaged weights
Row = dict[str, Any]  # of a table, for one method of making predictions


def conclude(study: Study) -> tuple[list[str], Path | None]:
    """A table for each setting that jobs differ in besides seed and callbacks, ensembles.csv with the same rows, and a
    figure of gains and costs. There is none where no run of callbacks=ensemble has finished.
    """
    keys = [key for key in study.varied if key != "callbacks"]
    tables: dict[str, list[Row]] = {}
    for runs in groups(study.finished, keys):
        if rows := compared_methods(runs):
            tables[", ".join(str(settings(runs[0]).get(key)) for key in keys) or study.name] = rows
    if not tables:
        return [], None
    rows = [{"setting": title, **row} for title, rows in tables.items() for row in rows]
    write_csv(study.sweep.dir / "ensembles.csv", rows)
    lines = [line for title, rows in tables.items() for line in table_lines(title, rows)]
    return ["", *lines], draw_gains(study.title, tables, study.sweep.dir / "figures" / f"{study.name}.png")


def compared_methods(runs: list[Run]) -> list[Row]:
    """A row for each method that the runs of one data set, which differ in seed and `callbacks`, allow to compare.

    The first is the single network, that of callbacks=ensemble; no rows where none of these runs has finished.
    """
    by_callbacks = {settings(group[0]).get("callbacks"): group for group in groups(runs, ["callbacks"])}
    plain = by_callbacks.get("ensemble", [])
    if not plain:
        return []
    single = [run.results["test"] for run in plain]
    rows = [method_row("single", single, single, 1, 1)]
    ensembles = [run.results["ensemble"] for run in plain if "test" in run.results.get("ensemble", {})]
    if ensembles:
        scores = [ensemble["test"]["ensemble"] for ensemble in ensembles]
        passes = max(len(ensemble["members"]) for ensemble in ensembles)
        rows.append(method_row("checkpoints of one run", scores, single, 1, passes))
    rows.append(method_row("greedy soup of one run", [soup_scores(run) for run in plain], single, 1, 1))
    seconds = fmean(run.results["fit_seconds"] for run in plain)
    for name in (name for name in AVERAGED if name in by_callbacks):
        trainings = fmean(run.results["fit_seconds"] for run in by_callbacks[name]) / seconds
        rows.append(method_row(name, [run.results["test"] for run in by_callbacks[name]], single, trainings, 1))
    if len(plain) > 1:
        session = Session([str(run.dir) for run in plain], False, "none", "test")
        ensemble = make_ensemble(session, "probabilities", "all", None)
        report = session.reports(ensemble)[-1]  # of the test set
        rows.append(method_row(f"{len(plain)} seeds", [report.combined], single, len(plain), ensemble.passes))
        if session.best is not None:
            rows[-1]["best member"] = report.members[session.best][HEADLINE]
    return rows


def soup_scores(run: Run) -> dict[str, float]:
    """The test scores of the soup of the checkpoints that a run kept; where it is refused, those of the run."""
    try:
        session = Session([str(run.dir)], True, "none", "test")
        return session.reports(make_soup(session, "greedy"))[-1].combined
    except UserError:
        return run.results["test"]


def method_row(name: str, scores: list[dict], single: list[dict], trainings: float, passes: int) -> Row:
    """The mean of a method's test scores, which are one for each seed or one for all, beside those of single networks.

    gain: headline less that of the mean single network, also in standard errors of that mean (nan with one seed).
    trainings, passes: the costs, in trainings of a single network and forward passes for an image. best member: the
    headline of the member that is best on validation, which is known for an ensemble of seeds only, else nan.
    """
    mean, spread = mean_and_deviation([score[HEADLINE] for score in scores])
    single_mean, single_spread = mean_and_deviation([score[HEADLINE] for score in single])
    error = single_spread / math.sqrt(len(single))
    eces = [score["ece"] for score in scores if "ece" in score]  # a run's own results have none
    return {
        "method": name,
        "n": len(scores),
        METRIC: mean,
        f"{METRIC} std": spread,
        "gain": mean - single_mean,
        "gain in standard errors": (mean - single_mean) / error if error and scores is not single else math.nan,
        "test/loss": fmean(score["loss"] for score in scores),
        "test/ece": fmean(eces) if eces else math.nan,
        "best member": math.nan,
        "trainings": trainings,
        "forward passes": passes,
    }


def table_lines(title: str, rows: list[Row]) -> list[str]:
    written = MEASURES[HEADLINE].written
    lines = [f"  {title:24} {f'test {HEADLINE}':>17}  {'gain':>7}  {'loss':>6}  {'ece':>6}  trainings  passes"]
    for row in rows:
        value = written(row[METRIC]) + (f" +- {written(row[f'{METRIC} std'])}" if row["n"] > 1 else "")
        ece = "" if math.isnan(row["test/ece"]) else f"{row['test/ece']:.4f}"
        errors = "" if math.isnan(row["gain in standard errors"]) else f"  {row['gain in standard errors']:+.1f} SE"
        best = "" if math.isnan(row["best member"]) else f"; best member by validation {written(row['best member'])}"
        lines.append(
            f"  {row['method']:24} {value:>17}  {100 * row['gain']:+7.2f}  {row['test/loss']:6.4f}  {ece:>6}  "
            f"{row['trainings']:9.2f}  {row['forward passes']:6}{errors}{best}"
        )
    return [*lines, ""]


def draw_gains(title: str, tables: dict[str, list[Row]], path: Path) -> Path:
    """A panel for each table and a bar for each row but the first, which is the single network; with standard errors
    where there are several seeds, and the costs below. Gives the path.
    """
    figure, axes = new_figure(title, len(tables))
    for axis, (setting, rows) in zip(axes, tables.items(), strict=True):
        rows = rows[1:]
        gains = [100 * row["gain"] for row in rows]
        errors = [100 * row[f"{METRIC} std"] / math.sqrt(row["n"]) for row in rows]
        names = [row["method"].replace(" of ", "\nof ") for row in rows]
        costs = [f"{row['trainings']:.2g} x training\n{row['forward passes']} x predicting" for row in rows]
        axis.bar(range(len(rows)), gains, yerr=errors, capsize=3, color=COLOURS[: len(rows)], width=0.6)
        axis.axhline(0, color="0.4", linewidth=0.8)
        axis.set_xticks(range(len(rows)), map("\n".join, zip(names, costs, strict=True)), fontsize=7)
        axis.set_title(setting, fontsize=10)
        axis.set_ylabel("gain in test accuracy, points")
    return save_figure(figure, path)
