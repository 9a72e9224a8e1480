"""The summary that a run prints at its end."""

import textwrap
from pathlib import Path
from typing import Any

from athanor.craft.ensembles.combine import MEASURES
from athanor.engine.runs.provenance import told_reads
from athanor.tasks.measure import Measure, sampling_interval, written


def summary(results: dict[str, Any], config: dict[str, Any], measures: dict[str, Measure], directory: Path) -> str:
    """What ran, its metrics, how long it took, and where its files are."""
    trained_by = (config["optim"] or config["task"])["_target_"].rpartition(".")[2]  # the optimizer, or who has its own
    rows = [
        ("run", f"{config['name']}: {results['parameters']:,} parameters, {trained_by}, seed {results['seed']}"),
        ("data", results["data"]["origin"]),
    ]
    for stage in "train", "val", "test":
        rows += stage_rows(stage, results, measures)
        rows += ensemble_rows(stage, results.get("ensemble", {}))
    if reads := results.get("test_reads"):
        rows.append(("", told_reads(reads)))
    speed, epoch = results["images_per_second"], results["checkpoint_epoch"]
    tested = f" (weights of epoch {epoch})" if epoch else ""
    rate = f", {speed:,.0f} images/s in training" if speed else ""
    rows.append(("time", f"{results['fit_seconds']:.1f} s of fit, {results['epochs']} epochs{tested}{rate}"))
    if (updates := results["averaged_updates"]) is not None:
        tested = f"an average of {updates:,} updates" if updates else "raw: nothing had been averaged by then"
        rows.append(("average", f"the chosen weights are {tested}"))
    rule = results["ended_by"]
    limit = config["trainer"].get(rule)
    reason = rule.replace("_", " ") if limit is None else f"trainer.{rule}={limit}"
    rows.append(("ended", f"by {reason}, in epoch {results['epochs']}, at step {results['steps']:,}"))
    if edits := results.get("control"):
        steps = ", ".join(map(str, dict.fromkeys(edit["step"] for edit in edits)))
        rows.append(("edited", f"by hand (control.yaml) at step {steps}"))
    rows.append(("results", str(directory)))
    if any(directory.glob("events.out.tfevents.*")):
        rows.append(("look", f"tensorboard --logdir {directory}"))
    return "\n" + "\n".join(f"  {name:8} {text}" for name, text in rows) + "\n"


def stage_rows(stage: str, results: dict[str, Any], measures: dict[str, Measure]) -> list[tuple[str, str]]:
    """Headline and loss of a stage, and its further metrics in lines of at most 100 characters."""
    if stage not in results:
        return []
    values = results[stage]
    first = {name: measures[name] for name in dict.fromkeys((next(iter(measures)), "loss")) if name in measures}
    first = {name: measure for name, measure in first.items() if name in values}
    further = "   ".join(
        f"{name} {value:.4f}".replace(" ", "\u00a0") for name, value in values.items() if name not in first
    )
    lines = [f"{written(values, first, gap='   ')}{told_count(stage, results, measures)}"] if first else []
    lines += [line.replace("\u00a0", " ") for line in textwrap.wrap(further, 100)]
    return [(stage if number == 0 else "", line) for number, line in enumerate(lines)]


def told_count(stage: str, results: dict[str, Any], measures: dict[str, Measure]) -> str:
    """How many images the metrics of a stage are of, and how sure a share of so many is."""
    read, there = results["read"].get(stage), results["data"][stage]
    if read is None:  # of a LightningModule that counts nothing
        return ""
    there = there or read  # None of a LightningDataModule, which tells no number
    limited = ", a limited test" if stage == "test" and read < there else ""
    text = f"   {f'{read:,} of ' if read < there else ''}{there:,} images{limited}"
    headline, measure = next(iter(measures.items()))
    if measure.unit != "%":
        return text
    low, high = sampling_interval(results[stage][headline], read)
    return f"{text} (95 % interval of {headline} {low:.2%} to {high:.2%})"


def ensemble_rows(stage: str, ensemble: dict[str, Any]) -> list[tuple[str, str]]:
    """An ensemble of checkpoints, compared with the mean and the best of its members."""
    if stage not in ensemble:
        return []
    scores, members = ensemble[stage], ensemble[stage]["members"]
    mean = ", ".join(measure.written(scores["mean"][name]) for name, measure in MEASURES.items())
    headline, measure = next(iter(MEASURES.items()))
    best = (max if measure.mode == "max" else min)(member[headline] for member in members)
    beside = f"mean member {mean}; best {measure.written(best)}"
    return [
        ("", f"{written(scores['ensemble'], MEASURES, gap='   ')}   ensemble of {len(members)} checkpoints; {beside}")
    ]
