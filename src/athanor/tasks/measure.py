"""A number that a task measures: whether more of it is better, and how it is written."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Measure:
    """What is known of a metric besides its value. A task names its measures in `Task.measures`.

    mode: `max` where a higher value is better, `min` where a lower one is.
    unit: `%` for a share in [0, 1], which is written as a percentage; else a word to put behind the number, or nothing.
    low, high: the least and the greatest value that it can have; None: there is none.
    """

    mode: Literal["min", "max"]
    unit: str = ""
    low: float | None = None
    high: float | None = None

    def within(self, value: float) -> float:
        """The nearest value that it can have."""
        low, high = (0.0, 1.0) if self.unit == "%" else (self.low, self.high)
        value = value if low is None else max(low, value)
        return value if high is None else min(high, value)

    def written(self, value: float) -> str:
        """A value as text: `98.25%`, or with four digits after the point."""
        return f"{value:.2%}" if self.unit == "%" else f"{value:.4f} {self.unit}".rstrip()


LOSS = Measure("min")


def stage_and_name(metric: str) -> tuple[str, str]:
    """The stage of a logged metric and its name without it: ("val", "loss") of val/loss, and of val_loss.

    What names no stage, as a module of one's own may log, belongs to the training.
    """
    match = re.fullmatch(r"(train|val|test)[/_](.+)", metric)
    return (match[1], match[2]) if match else ("train", metric)


def whole_epochs(metrics: Iterable[str]) -> list[str]:
    """Those of these names that are of whole epochs, each once: self.log(..., on_step=True, on_epoch=True) makes three
    of `loss`, which are loss, loss_step and loss_epoch.
    """
    names = list(metrics)
    return [
        name
        for name in names
        if not name.endswith("_step") and not (name.endswith("_epoch") and name.removesuffix("_epoch") in names)
    ]


def sampling_interval(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share in [0, 1] that was measured on `count` inputs, at least 1 (Wilson 1927).

    It is what the choice of the inputs leaves open; other seeds are not part of it. Unlike share +- 1.96 standard
    errors it stays in [0, 1], and is not empty at 100 %. Of a share over several decisions for each input, as the
    accuracy of attributes is, the true interval is at most as wide.
    """
    z = 1.96
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return max(0.0, centre - half), min(1.0, centre + half)  # floating point may miss the ends by 1e-17


def written(values: Mapping[str, float], measures: Mapping[str, Measure], gap: str = " ") -> str:
    """The values of these measures in one line, as `acc  98.25% loss 0.0712`, with room for 100 %."""
    texts = {name: measure.written(values[name]) for name, measure in measures.items()}
    return gap.join(f"{name} {text:>7}" if text.endswith("%") else f"{name} {text}" for name, text in texts.items())


def measure_of(metric: str, measures: Mapping[str, Measure]) -> Measure | None:
    """The measure that a logged metric has the values of: that of `acc` for val/acc, test/acc_tta and acc/<class>.

    measures: by name, without a stage. None where it is none of them.
    """
    name = metric.partition("/")[2] or metric
    bases = [base for base in measures if name == base or name.startswith((f"{base}_", f"{base}/"))]
    return measures[max(bases, key=len)] if bases else None
