"""Runs contenders in turns, and tells medians, ranges and ratios of what was measured."""

import argparse
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from contenders import process, tables

WORKERS = (0, 1, 2, 4, 8, 16)  # numbers of DataLoader workers that are tried
COLUMNS = {  # of the tables: what a report calls it, its heading and its number format
    "epoch_s": ("s/epoch", ".3f"),
    "images_per_s": ("images/s", ",.0f"),
    "us_per_item": ("us/item", ".1f"),
    "fit_s": ("s of fit", ".2f"),
    "command_s": ("s of command", ".2f"),
    "val_acc": ("val acc", ".2%"),
    "matmul_precision": ("matmul", ""),
    "peak_mb": ("peak MiB", ",.0f"),
    "gpu_peak_mb": ("GPU peak MiB", ",.0f"),
}

Results = dict[str, Any]


@dataclass
class Comparison:
    """Contenders that are measured in turns, round after round.

    title: starts with the case's name and a colon. words: of train.py's command line, what all contenders train.
    commands: by contender, what follows `python`. keys: names in the contenders' reports that are compared, with their
    ranges. beside: names that are only shown, as medians. pairs: of contenders, whose ratios are taken.
    """

    title: str
    words: list[str]
    commands: dict[str, list[str]]
    options: argparse.Namespace
    keys: Sequence[str]
    beside: Sequence[str] = ()
    pairs: Sequence[tuple[str, str]] = ()
    rounds: list[dict[str, Results]] = field(default_factory=list)  # each the reports by contender
    seconds: float = 0.0  # of the longest round so far
    has_ended: bool = False  # all rounds are done, or one has failed or was not done in time

    @property
    def case(self) -> str:
        return self.title.partition(":")[0]

    @property
    def progress(self) -> float:
        """The share of the rounds that are done."""
        return len(self.rounds) / self.options.repeats

    def run_round(self) -> None:
        """Measure every contender once. Raises UserError where one fails, and TimeoutError where the time is up."""
        started, number = time.monotonic(), len(self.rounds)
        reports = {}
        for name in tables.alternating_order(list(self.commands), number + 1)[number]:
            doing = f"{self.case}: round {number + 1} of {self.options.repeats}, {name}"
            reports[name] = measure(self.commands[name], self.options, doing)
        self.rounds.append(reports)
        self.seconds = max(self.seconds, time.monotonic() - started)

    def results(self) -> Results:
        """All measurements of the rounds that are done."""
        rounds = {name: [reports[name] for reports in self.rounds] for name in self.commands}
        return {
            "title": self.title,
            "data": describe_data(self.words),
            "commands": self.commands,
            "contenders": {name: {"rounds": each, "summary": summarise(each)} for name, each in rounds.items()},
            "ratios": {f"{a} / {b}": tables.round_ratios(rounds[a], rounds[b], self.keys) for a, b in self.pairs},
        }

    def text(self) -> str:
        """The tables of what was measured and of the ratios."""
        results = self.results()
        text = f"\n{self.title}, rounds {len(self.rounds)}\n{results['data']}\n\n"
        beside = [key for key in self.beside if key in next(iter(self.rounds[0].values()))]  # gpu_peak_mb only of GPUs
        text += contender_table(results, self.keys, beside)
        if ratios := results["ratios"].items():
            rows = [[name, *(tables.format_range(ratio[key], ".2f") for key in self.keys)] for name, ratio in ratios]
            text += "\n\n" + tables.text_table(["ratio of", *(COLUMNS[key][0] for key in self.keys)], rows)
        return text


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


def best_workers(options: argparse.Namespace, words: list[str], command: list[str]) -> int:
    """The number of DataLoader workers that was asked for, or the one with which `command` is fastest.

    Tried once for each data set. Where the time is limited, the smallest numbers are left out on many cores.
    """
    if options.workers != "best":
        return int(options.workers)
    data, cores = word_value(words, "data"), os.cpu_count()
    if data not in options.best_workers:
        least = 0 if math.isinf(options.deadline) else cores // 4
        speeds = {}
        for count in [count for count in WORKERS if least <= count <= cores]:
            doing = f"{data}: which number of workers is best: {count}"
            speeds[count] = measure(with_workers(command, count), options, doing)["images_per_s"]
        options.best_workers[data] = max(speeds, key=speeds.get)
    return options.best_workers[data]


def measure(command: list[str], options: argparse.Namespace, doing: str) -> Results:
    """The report of a contender's process, of which `doing` says what it is.

    Raises TimeoutError where it takes longer than options.longest, or than until options.deadline of time.monotonic().
    """
    print(f"{time.strftime('%H:%M:%S')}  {doing}", flush=True)
    # no process takes more than a third of the time: one that hangs leaves time for the others
    return process.measure_process(command, options.threads, min(options.deadline - time.monotonic(), options.longest))
