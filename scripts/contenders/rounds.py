"""Runs contenders in turns, and prints medians, ranges and ratios of what was measured."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from contenders import process, tables
from contenders.workload import describe_data

WORKERS = (0, 1, 2, 4, 8, 16)  # numbers of DataLoader workers that are tried
COLUMNS = {  # of the tables: what a report calls it, its heading and its number format
    "epoch_s": ("s/epoch", ".3f"),
    "images_per_s": ("images/s", ",.0f"),
    "fit_s": ("s of fit", ".2f"),
    "command_s": ("s of command", ".2f"),
    "val_acc": ("val acc", ".2%"),
    "matmul_precision": ("matmul", ""),
    "peak_mb": ("peak MiB", ",.0f"),
    "gpu_peak_mb": ("GPU peak MiB", ",.0f"),
}

Results = dict[str, Any]


def compare_in_turns(
    title: str,
    words: list[str],
    commands: dict[str, list[str]],
    options: argparse.Namespace,
    keys: Sequence[str],
    beside: Sequence[str] = (),
    pairs: Sequence[tuple[str, str]] = (),
) -> dict[str, Results]:
    """Run the contenders in turns, print their tables, and return all measurements under the case's name.

    title: starts with the case's name and a colon. words: what all contenders train. commands: by contender, what
    follows `python`. keys: what is compared, with ranges. beside: what is only shown, as medians. pairs: of contenders,
    whose ratios are taken.
    """
    case = title.partition(":")[0]
    rounds: dict[str, list[Results]] = {name: [] for name in commands}
    for number, names in enumerate(tables.alternating_order(list(commands), options.repeats), start=1):
        for name in names:
            show_progress(f"{case}: round {number} of {options.repeats}, {name}")
            rounds[name].append(process.measure_process(commands[name], options.threads))
    show_progress("")
    results = {
        "title": title,
        "data": describe_data(words),
        "commands": commands,
        "contenders": {name: {"rounds": reports, "summary": summarise(reports)} for name, reports in rounds.items()},
        "ratios": {
            f"{a} / {b}": {key: tables.round_ratios(*([r[key] for r in rounds[n]] for n in (a, b))) for key in keys}
            for a, b in pairs
        },
    }
    print(f"\n{title}\n{results['data']}\n\n{contender_table(results, keys, beside)}", flush=True)
    if pairs:
        rows = [
            [pair, *(tables.format_range(ratio[key], ".2f") for key in keys)]
            for pair, ratio in results["ratios"].items()
        ]
        print("\n" + tables.text_table(["ratio of", *(COLUMNS[key][0] for key in keys)], rows), flush=True)
    return {case: results}


def summarise(reports: list[Results]) -> Results:
    """The median and the range of each number that has a column."""
    numbers = [key for key in COLUMNS if isinstance(reports[0].get(key), float)]
    return {key: tables.median_and_range([report[key] for report in reports]) for key in numbers}


def contender_table(results: Results, keys: Sequence[str], beside: Sequence[str]) -> str:
    """A row for each contender."""
    rows = []
    for name, contender in results["contenders"].items():
        numbers, last = contender["summary"], contender["rounds"][-1]
        cells = [tables.format_range(numbers[key], COLUMNS[key][1]) for key in keys]
        cells += [format(numbers[key]["median"], COLUMNS[key][1]) if key in numbers else last[key] for key in beside]
        rows.append([name, *cells])
    return tables.text_table(["", *(COLUMNS[key][0] for key in [*keys, *beside])], rows)


def with_workers(command: list[str], workers: int) -> list[str]:
    return [*command, f"--workers={workers}"]


def best_workers(options: argparse.Namespace, command: list[str]) -> int:
    """The number of DataLoader workers that was asked for, or the one with which `command` is fastest."""
    if options.workers != "best":
        return int(options.workers)
    speeds = {}
    for count in WORKERS:
        if count <= os.cpu_count():
            show_progress(f"which number of workers is best: {count}")
            speeds[count] = process.measure_process(with_workers(command, count), options.threads)["images_per_s"]
    return max(speeds, key=speeds.get)


def show_progress(line: str) -> None:
    """Say what runs now, in a line that the next one replaces, on a terminal only: it is no part of the report."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
