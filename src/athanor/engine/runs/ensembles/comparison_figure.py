"""The figure of study=ensembles: gain against cost."""

import math
from pathlib import Path
from typing import Any

from athanor.craft.figure import COLOURS, new_figure, save


def draw(title: str, tables: dict[str, list[dict[str, Any]]], path: Path) -> Path:
    """A panel a setting, a bar a way: accuracy over the mean single network, with its cost below."""
    figure, axes = new_figure(title, len(tables))
    for axis, (setting, rows) in zip(axes, tables.items(), strict=True):
        rows = rows[1:]  # single networks gain nothing over themselves
        names = [row["way"] for row in rows]
        gains = [100 * row["gain"] for row in rows]
        errors = [100 * row["test/acc std"] / math.sqrt(row["n"]) for row in rows]
        axis.bar(range(len(rows)), gains, yerr=errors, capsize=3, color=COLOURS[: len(rows)], width=0.6)
        axis.axhline(0, color="0.4", linewidth=0.8)
        costs = [f"{row['trainings']:.2g} x training\n{row['forward passes']} x predicting" for row in rows]
        labels = [f"{wrapped(name)}\n{cost}" for name, cost in zip(names, costs, strict=True)]
        axis.set_xticks(range(len(rows)), labels, fontsize=7)
        axis.set_title(setting, fontsize=10)
        axis.set_ylabel("gain in test accuracy, points")
    return save(figure, path)


def wrapped(name: str) -> str:
    return name.replace(" of ", "\nof ")
