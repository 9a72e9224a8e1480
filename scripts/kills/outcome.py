"""Everything of a run that has to be equal to the bit, however often it was killed."""

import csv
import logging
import re
from pathlib import Path
from typing import Any

import torch

from athanor.engine.runs.run import Run

CHECKPOINT = ("state_dict", "raw", "optimizer_states", "lr_schedulers", "epoch", "global_step", "metrics")
# not what was measured with a clock, what counts readings of the test set, and where and when the run was
TIMES = ("started", "seconds", "fit_seconds", "images_per_second", "test_reads", "overrides", "slurm_job")


def outcome(folder: Path, said: str) -> dict[str, Any]:
    """By name: checkpoints, results, logged values, and the names of all files. said: what the run has printed."""
    values: dict[str, Any] = {"traceback": "Traceback" in said}
    for path in sorted(folder.glob("checkpoints/*.ckpt")):
        contents = torch.load(path, weights_only=True)
        values |= {f"{path.name} {key}": contents.get(key) for key in CHECKPOINT}
        values[f"{path.name} Checkpoints"] = contents["callbacks"].get("Checkpoints")
    results = Run(folder).results
    values |= {f"results.json {key}": value for key, value in results.items() if key not in TIMES}
    with open(folder / "metrics.csv") as file:
        values["metrics.csv"] = sorted(tuple(row.values()) for row in csv.DictReader(file))
    values["TensorBoard"] = tensorboard_scalars(folder)
    # without damaged checkpoints, and a lock: it is held by an open file, and the name that stays behind holds nothing
    files = [path for path in folder.rglob("*") if path.name != ".lock" and path.suffix != ".torn"]
    names = {str(path.relative_to(folder)) for path in files}
    # a file of predictions is named after its checkpoint, which has times in it
    values["files"] = sorted({re.sub(r"events\.out.*|[0-9a-f]{16}", "#", name) for name in names})
    return values


def tensorboard_scalars(folder: Path) -> dict[str, list]:
    """What TensorBoard shows: for each tag its steps and values."""
    from tensorboard.backend.event_processing.event_accumulator import SCALARS
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it announces the events that it drops
    board = EventMultiplexer(size_guidance={SCALARS: 0}).AddRunsFromDirectory(str(folder)).Reload()
    tags = board.Runs().get(".", {}).get("scalars", [])
    return {tag: sorted((event.step, event.value) for event in board.Scalars(".", tag)) for tag in tags}


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """The names under which two outcomes differ, in files with the names that only one of them has."""
    names = [name for name in {**a, **b} if not (name in a and name in b and equal(a[name], b[name]))]
    strange = sorted(set(a["files"]) ^ set(b["files"]))
    return [f"files {' '.join(strange)}" if name == "files" else name for name in names]


def equal(a: object, b: object) -> bool:
    """Whether two values of a checkpoint, tensors in nested containers, are equal to the bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b or (a != a and b != b)  # nan, of a metric that has no value
