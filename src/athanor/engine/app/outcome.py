"""What results.json says of a run that has finished."""

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from athanor.tasks.measure import Measure, stage_and_name, whole_epochs

if TYPE_CHECKING:
    import lightning.pytorch as L

STAGES = ("train", "val", "test")


def outcome(
    chosen: dict, begun: float, trainer: "L.Trainer", task: "L.LightningModule", metrics: dict[str, float]
) -> dict[str, Any]:
    """The metrics of the chosen checkpoint and of the test, and how the run went.

    chosen: the epoch that was tested, as Checkpoints.chosen. begun: time.monotonic() when this process began.
    """
    from athanor.callbacks.ending import ended_by
    from athanor.callbacks.stopwatch import Stopwatch

    watch = next(callback for callback in trainer.callbacks if isinstance(callback, Stopwatch))
    stages = {stage: of_stage(metrics, stage) for stage in STAGES}
    return dict(
        status="finished",
        **{stage: values for stage, values in stages.items() if values},
        checkpoint=chosen["file"] and f"checkpoints/{chosen['file']}",
        checkpoint_epoch=chosen["file"] and chosen["epoch"] + 1,
        averaged_updates=chosen["averaged"],
        epochs=trainer.current_epoch,
        steps=trainer.global_step,
        ended_by=ended_by(trainer),
        seconds=round(time.monotonic() - begun, 1),
        fit_seconds=round(watch.fit_seconds, 3),
        images_per_second=watch.images_per_second and round(watch.images_per_second, 1),
        parameters=sum(parameter.numel() for parameter in task.parameters()),
        seed=task.record["config"]["seed"],
        measures={name: asdict(measure) for name, measure in measures_of(task).items()},
        device=str(trainer.strategy.root_device),
        devices=trainer.world_size,
        precision=trainer.precision,
    )


def measures_of(task: "L.LightningModule") -> dict[str, Measure]:
    """What the task measures, the headline first; of a module that is no Task, the monitored metric."""
    monitor = task.record["config"]["monitor"]
    return getattr(task, "measures", {stage_and_name(monitor["metric"])[1]: Measure(monitor["mode"])})


def logged_metrics(trainer: "L.Trainer") -> dict[str, float]:
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


def of_stage(metrics: dict[str, float], stage: str) -> dict[str, float]:
    """The metrics of a stage by their own names: `loss` for `val/loss`; that of a single step is none of them."""
    named = ((*stage_and_name(metric), metrics[metric]) for metric in whole_epochs(metrics))
    return {name: value for first, name, value in named if first == stage}
