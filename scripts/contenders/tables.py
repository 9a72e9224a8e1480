"""Medians, ranges and ratios of measurements, and tables of them as text."""

from collections.abc import Sequence
from statistics import median
from typing import Any


def alternating_order(names: Sequence[str], rounds: int) -> list[list[str]]:
    """A B C, C B A, A B C, and so on: a slow drift of the machine's speed then affects all alike."""
    return [list(names) if number % 2 == 0 else list(reversed(names)) for number in range(rounds)]


def median_and_range(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def round_ratios(numerators: Sequence[dict], denominators: Sequence[dict], keys: Sequence[str]) -> dict[str, Any]:
    """For each of `keys` the ratios of the reports of each round, whose processes ran one soon after the other."""
    ratios = {}
    for key in keys:
        rounds = [a[key] / b[key] for a, b in zip(numerators, denominators, strict=True)]
        ratios[key] = {"rounds": rounds, **median_and_range(rounds)}
    return ratios


def format_range(values: dict[str, float], style: str) -> str:
    """The median, and in brackets the least and the most where they differ. `style` is a format of str.format."""
    middle, low, high = (format(values[key], style) for key in ("median", "min", "max"))
    return middle if low == high else f"{middle} ({low}-{high})"


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width: the first is aligned to the left, the others, which are numbers, to the right."""
    columns = zip(header, *rows, strict=True)
    padded = []
    for number, column in enumerate(columns):
        width = max(map(len, column))
        padded.append([cell.rjust(width) if number else cell.ljust(width) for cell in column])
    return "\n".join(f"  {'   '.join(line)}".rstrip() for line in zip(*padded, strict=True))
