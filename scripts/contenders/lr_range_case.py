"""Does a range test give learning rates that train well? The case lr_range of scripts/benchmark.py."""

import argparse
import math
from statistics import mean
from typing import Any

from contenders import process, tables
from contenders.rounds import Results, show_progress
from contenders.workload import data_source, describe_data, module_command

MNIST = ["data=mnist", "scheduler=cosine", "trainer.max_epochs=2"]
DIGITS = ["data=digits", "scheduler=cosine", "trainer.max_epochs=10"]
SETTINGS = {
    "linear-sgd": [*MNIST, "model=linear", "optim=sgd"],
    "mlp-nesterov": [*MNIST, "model=mlp", "optim=nesterov"],
    "mlp-adam": [*MNIST, "model=mlp", "optim=adam"],
    "mlp-muon": [*MNIST, "model=mlp", "optim=muon"],
    "cnn-nesterov": [*DIGITS, "model=cnn", "optim=nesterov"],
    "cnn-adam": [*DIGITS, "model=cnn", "optim=adam"],
}
NAMES = {"minimum": "minimum / 10", "steepest": "steepest", "valley": "valley", "lightning": "Lightning's finder"}


def measure_lr_range(options: argparse.Namespace) -> Results:
    """What training costs at the learning rate that a range test gives, against the best of 21 rates."""
    results = {}
    for name in SETTINGS if options.setting == "all" else [options.setting]:
        words = [*SETTINGS[name], "trainer=cpu", *data_source(SETTINGS[name])]
        show_progress(f"lr_range: {name}, {options.repeats} seeds")
        command = module_command("lr_range_losses", [*words, "callbacks=lr_range", "logger=[]"], seeds=options.repeats)
        report = process.measure_process(command, options.threads)
        show_progress("")
        results[f"lr_range-{name}"] = case = {"data": describe_data(words), **judge(report), **report}
        print(f"\nlr_range-{name}: {' '.join(SETTINGS[name])}\n{case['data']}\n\n{rule_table(case)}", flush=True)
    return results


def judge(report: dict[str, Any]) -> dict[str, Any]:
    """For each rule the range of its answers, and how much validation loss (nats) they lose against the best rate."""
    means = [mean(losses) for losses in report["grid_losses"]]
    best = min(range(len(means)), key=means.__getitem__)
    rules = {}
    for rule in NAMES:
        rates = [answers[rule] for answers in report["answers"]]
        lost = [losses[rule] - report["grid_losses"][best][seed] for seed, losses in enumerate(report["losses"])]
        rules[rule] = {
            "lr": tables.median_and_range(rates),
            "spread": max(rates) / min(rates) if all(map(math.isfinite, rates)) else math.inf,
            "regret": {"mean": mean(lost), **tables.median_and_range(lost)},
        }
    return {"best_lr": report["grid"][best], "best_loss": means[best], "rules": rules}


def rule_table(case: dict[str, Any]) -> str:
    rows = []
    for rule, numbers in case["rules"].items():
        lost = [f"{numbers['regret'][key]:+.3f}" for key in ("mean", "max")]
        rows.append([NAMES[rule], tables.format_range(numbers["lr"], ".2g"), f"{numbers['spread']:.1f}", *lost])
    rows.append(["best of the grid", f"{case['best_lr']:.2g}", "", f"{case['best_loss']:.3f}", ""])
    return tables.text_table(["", "learning rate", "largest/least", "nats lost, mean", "most"], rows)
