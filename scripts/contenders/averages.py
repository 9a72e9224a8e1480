"""What an average of the weights costs. The case ema of scripts/benchmark.py."""

import argparse

from contenders.cases import BESIDE, RESNET, Results, athanor, compare, workload


def ema(options: argparse.Namespace) -> Results:
    """Training steps alone: an epoch's time has no validation, which an average makes twice as long."""
    words = workload(RESNET, options)
    commands = {"athanor": athanor(words), "athanor, ema": athanor([*words, "callbacks=ema"])}
    title = f"ema: ResNet-20 with and without a moving average of its weights, epochs {options.epochs}"
    pairs = [("athanor, ema", "athanor")]
    return {"ema": compare(title, words, commands, ["epoch_s"], BESIDE, pairs, options)}
