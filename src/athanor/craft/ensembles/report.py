"""How good an ensemble is beside its members: a table of scores, and the numbers for results.json."""

from statistics import mean, stdev
from typing import Any

from torch import Tensor

from athanor.craft.ensembles.combine import MEASURES, disagreement, scores
from athanor.craft.ensembles.predictions import Stage

TITLES = {"val": "validation", "test": "test"}


class Report:
    """Scores on the images of one stage, of members and of their combination.

    weights: of each member by its name, 0 where it is left out. logits [M, N, C]: of the members, in the same order.
    log_p: the log-probabilities [N, C] of the combination. labels: int64 [N].
    """

    def __init__(self, stage: Stage, weights: dict[str, float], logits: Tensor, log_p: Tensor, labels: Tensor) -> None:
        self.stage = stage
        self.images = len(labels)
        self.weights = weights
        rows = [scores(member.log_softmax(-1), labels) for member in logits]
        self.members = dict(zip(weights, rows, strict=True))
        self.combined = scores(log_p, labels)
        used = [index for index, weight in enumerate(weights.values()) if weight > 0]
        self.disagreement = disagreement(logits[used])  # share of the images

    @property
    def mean(self) -> dict[str, float]:
        """The mean score of the members that are not left out, with standard deviations as <name>_std."""
        used = [self.members[name] for name, weight in self.weights.items() if weight > 0]
        columns = {name: [row[name] for row in used] for name in MEASURES}
        deviations = {f"{name}_std": stdev(column) if len(column) > 1 else 0.0 for name, column in columns.items()}
        return {name: mean(column) for name, column in columns.items()} | deviations

    def table(self, best: str | None, kind: str) -> list[str]:
        """Lines to print. best: the name of the member that is best on validation; kind: ensemble, or soup."""
        rows = [(name, self.members[name], f"{weight:.2f}" if weight else "-") for name, weight in self.weights.items()]
        average = self.mean
        deviation = {name: average[f"{name}_std"] for name in MEASURES}
        rows += [("mean member", average, ""), ("standard deviation", deviation, "")]
        if best in self.members:
            rows.append((f"best member ({best})", self.members[best], ""))
        rows.append((kind, self.combined, ""))
        head = f"{TITLES[self.stage]}, {self.images:,} images"
        width = max(len(name) for name, *_ in [(head,), *rows])
        lines = [f"  {head:{width}}  {'  '.join(f'{name:>7}' for name in MEASURES)}  weight"]
        for name, row, weight in rows:
            cells = "  ".join(f"{measure.written(row[key]):>7}" for key, measure in MEASURES.items())
            lines.append(f"  {name:{width}}  {cells}  {weight:>6}".rstrip())
        return [*lines, f"  the members disagree on {self.disagreement:.1%} of the images", ""]


def numbers(reports: list[Report], best: str | None) -> dict[str, Any]:
    """The part of results.json that says how good the ensemble and its members are."""
    members: dict[str, dict[str, Any]] = {}
    for report in reports:
        for name, row in report.members.items():
            members.setdefault(name, {"name": name, "weight": report.weights[name]})[report.stage] = row
    return {
        **{report.stage: report.combined for report in reports},
        "disagreement": {report.stage: report.disagreement for report in reports},
        "mean_member": {report.stage: report.mean for report in reports},
        **({} if best is None else {"best_member": best}),
        "members": list(members.values()),
    }
