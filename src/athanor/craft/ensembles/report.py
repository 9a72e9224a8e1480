"""How good an ensemble is beside its members: a table of scores, and the numbers for results.json."""

from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from torch import Tensor

from athanor.craft.ensembles.combine import disagreement, scores
from athanor.craft.ensembles.predictions import Stage

SCORES = ("loss", "acc", "ece")
TITLES = {"val": "validation", "test": "test"}


@dataclass(frozen=True)
class Report:
    """Scores on the images of one stage. `members` has a row for each member, in the order of `names`."""

    stage: Stage
    images: int
    names: list[str]
    weights: list[float]  # 0 for a member that is left out
    members: list[dict[str, float]]
    combined: dict[str, float]
    disagreement: float  # share of the images

    @classmethod
    def of(
        cls, stage: Stage, names: list[str], weights: list[float], logits: Tensor, combined: Tensor, labels: Tensor
    ) -> "Report":
        """From the members' logits [M, N, C] and the log-probabilities [N, C] of their combination."""
        rows = [scores(member.log_softmax(-1), labels) for member in logits]
        used = logits[[index for index, weight in enumerate(weights) if weight > 0]]
        return cls(stage, len(labels), names, weights, rows, scores(combined, labels), disagreement(used))

    @property
    def mean(self) -> dict[str, float]:
        """The mean score of the members that are not left out, with standard deviations as acc_std."""
        used = [row for row, weight in zip(self.members, self.weights, strict=True) if weight > 0]
        columns = {name: [row[name] for row in used] for name in SCORES}
        deviations = {f"{name}_std": stdev(column) if len(column) > 1 else 0.0 for name, column in columns.items()}
        return {name: mean(column) for name, column in columns.items()} | deviations

    def table(self, best: str | None, kind: str) -> list[str]:
        """Lines to print. best: the name of the member that is best on validation; kind: ensemble, or soup."""
        rows = [
            (name, row, f"{weight:.2f}" if weight else "-")
            for name, row, weight in zip(self.names, self.members, self.weights, strict=True)
        ]
        average = self.mean
        deviation = {name: average[f"{name}_std"] for name in SCORES}
        rows += [("mean member", average, ""), ("standard deviation", deviation, "")]
        if best in self.names:
            rows.append((f"best member ({best})", self.members[self.names.index(best)], ""))
        rows.append((kind, self.combined, ""))
        head = f"{TITLES[self.stage]}, {self.images:,} images"
        width = max(len(name) for name, *_ in [(head,), *rows])
        lines = [f"  {head:{width}}  {'loss':>7}  {'acc':>7}  {'ece':>6}  weight"]
        for name, row, weight in rows:
            cells = f"{row['loss']:7.4f}  {row['acc']:7.2%}  {row['ece']:6.4f}"
            lines.append(f"  {name:{width}}  {cells}  {weight:>6}".rstrip())
        return [*lines, f"  the members disagree on {self.disagreement:.1%} of the images", ""]


def numbers(reports: list[Report], best: str | None) -> dict[str, Any]:
    """The part of results.json that says how good the ensemble and its members are."""
    members: dict[str, dict[str, Any]] = {}
    for report in reports:
        for name, row, weight in zip(report.names, report.members, report.weights, strict=True):
            members.setdefault(name, {"name": name, "weight": weight})[report.stage] = row
    return {
        **{report.stage: report.combined for report in reports},
        "disagreement": {report.stage: report.disagreement for report in reports},
        "mean_member": {report.stage: report.mean for report in reports},
        **({} if best is None else {"best_member": best}),
        "members": list(members.values()),
    }
