"""Does a range test give learning rates that train well? The case lr_range of scripts/benchmark.py."""

import argparse
import math
from statistics import mean
from typing import Any

from contenders import process, report
from contenders.cases import about_data, contender, data_source, say

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


def lr_range(options: argparse.Namespace) -> dict[str, Any]:
    """Validation loss at each rule's answer, over that of the best of 21 learning rates, from several seeds."""
    results = {}
    for name in SETTINGS if options.setting == "all" else [options.setting]:
        words = [*SETTINGS[name], "trainer=cpu", *data_source(SETTINGS[name])]
        say(f"lr_range: {name}, {options.repeats} seeds")
        record = process.run(contender("lr_range", words, seeds=options.repeats), options.threads)
        say("")
        results[f"lr_range-{name}"] = found = {"data": about_data(words), **judged(record), **record}
        print(f"\nlr_range-{name}: {' '.join(SETTINGS[name])}\n{found['data']}\n\n{shown(found)}", flush=True)
    return results


def judged(record: dict[str, Any]) -> dict[str, Any]:
    """Of each rule: what its answers lie between, and how many nats its trainings lose against the best rate."""
    means = [mean(losses) for losses in record["grid_losses"]]
    best = min(range(len(means)), key=means.__getitem__)
    rules = {}
    for rule in NAMES:
        answers = [found[rule] for found in record["answers"]]
        lost = [losses[rule] - record["grid_losses"][best][seed] for seed, losses in enumerate(record["losses"])]
        rules[rule] = {
            "lr": report.spread(answers),
            "spread": max(answers) / min(answers) if all(map(math.isfinite, answers)) else math.inf,
            "regret": {"mean": mean(lost), **report.spread(lost)},
        }
    return {"best_lr": record["grid"][best], "best_loss": means[best], "rules": rules}


def shown(found: dict[str, Any]) -> str:
    rows = [
        [
            NAMES[rule],
            report.shown(judgement["lr"], ".2g"),
            f"{judgement['spread']:.1f}",
            f"{judgement['regret']['mean']:+.3f}",
            f"{judgement['regret']['max']:+.3f}",
        ]
        for rule, judgement in found["rules"].items()
    ]
    rows.append(["best of the grid", f"{found['best_lr']:.2g}", "", f"{found['best_loss']:.3f}", ""])
    return report.table(["", "learning rate", "largest/least", "nats lost, mean", "most"], rows)
