"""What results.json says of a run that has finished."""

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import lightning.pytorch as L

    from athanor.tasks.task import Task

STAGES = ("train", "val", "test")


def outcome(
    chosen: dict, begun: float, trainer: "L.Trainer", task: "Task", metrics: dict[str, float]
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
        seed=task.seed,
        measures={name: asdict(measure) for name, measure in task.measures.items()},
        device=str(trainer.strategy.root_device),
        devices=trainer.world_size,
        precision=trainer.precision,
    )


def logged_metrics(trainer: "L.Trainer") -> dict[str, float]:
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


def of_stage(metrics: dict[str, float], stage: str) -> dict[str, float]:
    """The metrics of a stage by their own names: `loss` for `val/loss`; that of a single step is none of them."""
    pairs = ((name.partition("/"), value) for name, value in metrics.items())
    return {name: value for (first, _, name), value in pairs if first == stage and name != "loss_step"}
