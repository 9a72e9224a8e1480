"""What torchmetrics' metrics give: numbers, which are logged, and matrices, which are drawn."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from athanor.base.errors import UserError
from athanor.tasks.measure import Measure


def metric_measure(metric: Metric | MetricCollection) -> Measure:
    """Its bounds are those of the metric, such as 0 and 1 of an accuracy; a collection is of many kinds."""
    mode = "min" if getattr(metric, "higher_is_better", None) is False else "max"
    low, high = getattr(metric, "plot_lower_bound", None), getattr(metric, "plot_upper_bound", None)
    return Measure(mode, low=low, high=high)


def metric_parts(name: str, value: object, outputs: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    """The value of a metric as scalars and matrices [R, C], each under a name of its own.

    What a dict has is named after its keys, as val/scores/f1; what a vector or a stack of matrices has, after the
    `outputs` of the task, as val/recall/cat, or where it is not as long as these, by number.
    Raises UserError for any other value, as the lists of points that a curve is.
    """
    if isinstance(value, dict):
        for key, part in value.items():
            yield from metric_parts(f"{name}/{key}", part, outputs)
        return
    if isinstance(value, (int, float)):
        value = torch.tensor(value)
    if not isinstance(value, Tensor):
        raise UserError(
            f"metrics: {name} is a {type(value).__name__}, and what is logged and drawn are numbers, dicts, vectors "
            "and matrices\n  write a metric that computes one of these, see configs/metrics/average_precision.yaml"
        )
    if value.ndim in (0, 2):
        yield name, value
        return
    names = outputs if len(outputs) == len(value) else range(len(value))
    for each, part in zip(names, value, strict=True):
        yield from metric_parts(f"{name}/{each}", part, outputs)
