"""What an ensemble is worth beside its members: numbers for results.json, and a table of them."""

from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from torch import Tensor

from athanor.craft.ensembles.combine import disagreement, scores
from athanor.craft.ensembles.predictions import Stage

NAMES = ("loss", "acc", "ece")
TITLES = {"val": "validation", "test": "test"}


@dataclass(frozen=True)
class Report:
    """Of one stage. `members` has a row for each in the order of `names`, `combined` is theirs together."""

    stage: Stage
    images: int
    names: list[str]
    weights: list[float]
    members: list[dict[str, float]]
    combined: dict[str, float]
    disagreement: float

    @property
    def used(self) -> list[dict[str, float]]:
        return [row for row, weight in zip(self.members, self.weights, strict=True) if weight > 0]

    @property
    def mean(self) -> dict[str, float]:
        """Of the members that are in, with standard deviations as acc_std."""
        columns = {name: [row[name] for row in self.used] for name in NAMES}
        spread = {f"{name}_std": stdev(column) if len(column) > 1 else 0.0 for name, column in columns.items()}
        return {name: mean(column) for name, column in columns.items()} | spread

    def table(self, best: str | None, kind: str) -> list[str]:
        """Lines to print. best: the member that is best on validation; kind: ensemble, or soup."""
        average = self.mean
        width = max(map(len, [*self.names, f"best member ({best})", "standard deviation"]))
        head = f"{TITLES[self.stage]}, {self.images:,} images"
        lines = [f"  {head:{width}}  {'loss':>7}  {'acc':>7}  {'ece':>6}  weight"]
        for name, row, weight in zip(self.names, self.members, self.weights, strict=True):
            lines.append(f"  {name:{width}}  {cells(row)}  {f'{weight:.2f}' if weight else '-':>6}")
        lines += [f"  {'mean member':{width}}  {cells(average)}"]
        lines += [f"  {'standard deviation':{width}}  {cells({name: average[f'{name}_std'] for name in NAMES})}"]
        if best in self.names:
            lines.append(f"  {f'best member ({best})':{width}}  {cells(self.members[self.names.index(best)])}")
        lines.append(f"  {kind:{width}}  {cells(self.combined)}")
        return [*lines, f"  the members disagree on {self.disagreement:.1%} of the images", ""]


def report(
    stage: Stage, names: list[str], weights: list[float], logits: Tensor, both: Tensor, labels: Tensor
) -> Report:
    """From the members' logits [M, N, C] and the log-probabilities [N, C] of what was made of them."""
    rows = [scores(member.log_softmax(-1), labels) for member in logits]
    inside = logits[[index for index, weight in enumerate(weights) if weight > 0]]
    return Report(stage, len(labels), names, weights, rows, scores(both, labels), disagreement(inside))


def cells(row: dict[str, float]) -> str:
    return f"{row['loss']:7.4f}  {row['acc']:7.2%}  {row['ece']:6.4f}"


def numbers(reports: list[Report], best: str | None) -> dict[str, Any]:
    """The part of results.json that says what came out."""
    found: dict[str, Any] = {report.stage: report.combined for report in reports}
    found["disagreement"] = {report.stage: report.disagreement for report in reports}
    found["mean_member"] = {report.stage: report.mean for report in reports}
    members: dict[str, dict[str, Any]] = {}
    for report in reports:
        for name, row, weight in zip(report.names, report.members, report.weights, strict=True):
            members.setdefault(name, {"name": name, "weight": weight})[report.stage] = row
    if best is not None:
        found["best_member"] = best
    return {**found, "members": list(members.values())}
