"""Medians, ranges and ratios of measurements, and tables of them as text."""

from collections.abc import Sequence
from statistics import median
from typing import Any


def alternating_order(names: Sequence[str], rounds: int) -> list[list[str]]:
    """A B C, C B A, A B C, and so on: a slow drift of the machine's speed then affects all alike."""
    return [list(names) if number % 2 == 0 else list(reversed(names)) for number in range(rounds)]


def median_and_range(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of each number; a round in which it is missing counts as 0."""
    names = dict.fromkeys(name for row in rounds for name in row)
    return {name: median(row.get(name, 0.0) for row in rounds) for name in names}


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


def share_table(parts: dict[str, float], whole: str, unit: str, correction: dict[str, float] | None = None) -> str:
    """The parts of a whole, the longest first and the correction last, with their shares and the total."""
    rows = [*sorted(parts.items(), key=lambda item: -item[1]), *(correction or {}).items()]
    total = sum(amount for _, amount in rows)
    cells = [[name, f"{amount:.1f}", f"{amount / total:.1%}"] for name, amount in rows]
    return text_table([whole, unit, "share"], [*cells, ["total", f"{total:.1f}", "100.0%"]])
