"""Medians, spreads and ratios of measurements, and their tables."""

from collections.abc import Sequence
from statistics import median
from typing import Any


def turns(names: Sequence[str], rounds: int) -> list[list[str]]:
    """A B C, C B A, A B C, ...: what drifts slowly falls on all alike."""
    return [list(names) if number % 2 == 0 else list(reversed(names)) for number in range(rounds)]


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, Any]:
    """Of each round's two measurements, which had the machine at nearly the same time."""
    found = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return {"rounds": found, **spread(found)}


def steady(epochs: Sequence[float]) -> float:
    """Seconds of an epoch, without the first, which warms up."""
    return median(epochs[1:] or epochs)


def shown(found: dict[str, float], style: str) -> str:
    """The median, and what it lies between."""
    middle, low, high = (format(found[key], style) for key in ("median", "min", "max"))
    return middle if low == high else f"{middle} ({low}-{high})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, numbers to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    padded = (
        [
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    )
    return "\n".join(f"  {'   '.join(cells)}".rstrip() for cells in padded)
