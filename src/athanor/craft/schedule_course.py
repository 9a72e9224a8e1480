"""Learning rate and momentum over a run: a table's lines and a figure."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from athanor.craft.figure import COLOURS, new_figure
from athanor.optim.rates import current_value, sets_momentum
from athanor.optim.schedules import RunLength

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 2000  # more than the figure has pixels


@dataclass(frozen=True)
class Course:
    """The first group's learning rate of each step, and its momentum where a schedule sets it."""

    run: RunLength
    lrs: list[float]
    momenta: list[float]

    @property
    def lines(self) -> list[str]:
        """What a person wants to know before the run."""
        peak = self.lrs.index(max(self.lrs))
        place = f"at step {peak} (epoch {peak / self.run.per_epoch:.4g})"
        ends = f"first {self.lrs[0]:.4g}, peak {self.lrs[peak]:.4g} {place}, last {self.lrs[-1]:.4g}"
        lines = [f"steps          {len(self.lrs)}, {self.run.per_epoch} an epoch", f"learning rate  {ends}"]
        if self.momenta:
            low, high = min(self.momenta), max(self.momenta)
            ends = f"first {self.momenta[0]:.4g}, last {self.momenta[-1]:.4g}"
            lines.append(f"momentum       {ends}, between {low:.4g} and {high:.4g}")
        return lines


def course(optimizer: Optimizer, schedulers: Iterable[tuple[LRScheduler, str]], run: RunLength) -> Course:
    """Move the schedulers through the whole run, as training does; those that wait for a metric stay."""
    moving = [(moved, interval) for moved, interval in schedulers if not isinstance(moved, ReduceLROnPlateau)]
    has_momentum = any(sets_momentum(scheduler) for scheduler, _ in moving)
    lrs, momenta = [], []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)  # no step is made
        for done in range(1, int(run.steps) + 1):
            lrs.append(float(current_value(optimizer, "lr")))
            if has_momentum:
                momenta.append(float(current_value(optimizer, "momentum")))
            for scheduler, interval in moving:
                if interval == "step" or done % run.per_epoch == 0:
                    scheduler.step()
    return Course(run, lrs, momenta)


def draw(course: Course, title: str) -> "Figure":
    """Against epochs, with a panel for momentum where it has a schedule."""
    figure, axes = new_figure(title, panels=2 if course.momenta else 1)
    curves = {"learning rate": course.lrs, "momentum": course.momenta}
    for axis, colour, (name, values) in zip(axes, COLOURS, curves.items(), strict=False):
        draw_panel(axis, course, values, name, colour)
    axes[0].set_ylim(bottom=0, top=1.05 * (max(course.lrs) or 1))
    return figure


def draw_panel(axis: "Axes", course: Course, values: list[float], name: str, colour: str) -> None:
    """Some of the points, the last one among them."""
    stride = -(-len(values) // POINTS)
    steps = [*range(0, len(values) - 1, stride), len(values) - 1]
    marker = "." if len(values) <= 30 else None
    axis.plot([s / course.run.per_epoch for s in steps], [values[s] for s in steps], color=colour, marker=marker)
    axis.set_xlabel("epoch")
    axis.set_ylabel(name)
