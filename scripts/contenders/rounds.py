"""Runs contenders in turns, and prints medians, ranges and ratios of what was measured."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from contenders import process, tables

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

    title: starts with the case's name and a colon. words: of train.py's command line, what all contenders train.
    commands: by contender, what follows `python`. keys: names in the contenders' reports that are compared, with their
    ranges. beside: names that are only shown, as medians. pairs: of contenders, whose ratios are taken.
    """
    case = title.partition(":")[0]
    rounds: dict[str, list[Results]] = {name: [] for name in commands}
    for number, names in enumerate(tables.alternating_order(list(commands), options.repeats), start=1):
        for name in names:
            progress = f"{case}: round {number} of {options.repeats}, {name}"
            rounds[name].append(measure(commands[name], options, progress))
    results = {
        "title": title,
        "data": describe_data(words),
        "commands": commands,
        "contenders": {name: {"rounds": reports, "summary": summarise(reports)} for name, reports in rounds.items()},
        "ratios": {f"{a} / {b}": tables.round_ratios(rounds[a], rounds[b], keys) for a, b in pairs},
    }
    print(f"\n{title}\n{results['data']}\n\n{contender_table(results, keys, beside)}", flush=True)
    if ratios := results["ratios"].items():
        rows = [[name, *(tables.format_range(ratio[key], ".2f") for key in keys)] for name, ratio in ratios]
        print("\n" + tables.text_table(["ratio of", *(COLUMNS[key][0] for key in keys)], rows), flush=True)
    return {case: results}


def word_value(words: list[str], key: str) -> str | None:
    return next((word.partition("=")[2] for word in words if word.startswith(f"{key}=")), None)


def describe_data(words: list[str]) -> str:
    limit = word_value(words, "data.limit")
    kind = "GENERATED images in the shape of " if word_value(words, "data._target_") else ""
    return f"{kind}{word_value(words, 'data')}, {f'{int(limit):,} of its' if limit else 'all'} training images"


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
            report = measure(with_workers(command, count), options, f"which number of workers is best: {count}")
            speeds[count] = report["images_per_s"]
    return max(speeds, key=speeds.get)


def measure(command: list[str], options: argparse.Namespace, progress: str) -> Results:
    """The report of a contender's process. While it runs, `progress` says so on a terminal; it is not in the output."""
    show_line(progress)
    report = process.measure_process(command, options.threads)
    show_line("")
    return report


def show_line(text: str) -> None:
    """A line on the terminal that replaces the one before."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
