"""Learning rate and momentum over a whole run, computed before it begins: as lines of text and as a figure."""

import math
import warnings

import lightning.pytorch as L
from matplotlib.figure import Figure
from torch.optim.lr_scheduler import ReduceLROnPlateau

from athanor.base.errors import UserError
from athanor.craft.figure import COLOURS, new_figure
from athanor.optim.rates import current_value, sets_momentum
from athanor.tasks.task import Task

POINTS = 2000  # more than the figure has pixels


class ScheduleCourse:
    """The first group's learning rate at each step, and its momentum where a schedule sets it (else no values).

    Made where training would begin (on_train_start): the schedulers are stepped through the whole run as training does.
    Those that wait for a metric (plateau) are not stepped, so their rate is drawn as constant. Raises UserError where
    the run has no last step.
    """

    def __init__(self, trainer: L.Trainer, task: Task) -> None:
        self.run = task.run_length
        self.lrs: list[float] = []
        self.momenta: list[float] = []
        if math.isinf(self.run.steps):
            raise UserError("this run has no end that is known; set trainer.max_epochs or trainer.max_steps")
        optimizer = trainer.optimizers[0]
        moving = [each for each in trainer.lr_scheduler_configs if not isinstance(each.scheduler, ReduceLROnPlateau)]
        has_momentum = any(sets_momentum(each.scheduler) for each in moving)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)  # nothing is trained
            for step in range(1, int(self.run.steps) + 1):
                self.lrs.append(float(current_value(optimizer, "lr")))
                if has_momentum:
                    self.momenta.append(float(current_value(optimizer, "momentum")))
                for each in moving:
                    if each.interval == "step" or step % self.run.per_epoch == 0:
                        each.scheduler.step()

    @property
    def lines(self) -> list[str]:
        """The number of steps, the ends and the peak of the learning rate, the ends and the range of momentum, and
        whether the last step has rate 0.
        """
        peak = self.lrs.index(max(self.lrs))
        place = f"at step {peak} (epoch {peak / self.run.per_epoch:.4g})"
        ends = f"first {self.lrs[0]:.4g}, peak {self.lrs[peak]:.4g} {place}, last {self.lrs[-1]:.4g}"
        lines = [f"steps          {len(self.lrs)}, {self.run.per_epoch} an epoch", f"learning rate  {ends}"]
        if self.momenta:
            low, high = min(self.momenta), max(self.momenta)
            ends = f"first {self.momenta[0]:.4g}, last {self.momenta[-1]:.4g}"
            lines.append(f"momentum       {ends}, between {low:.4g} and {high:.4g}")
        if self.lrs[-1] == 0:
            lines.append("the last step has rate 0 and changes no weight; with scheduler.floor above 0 it would")
        return lines


def draw_schedule(course: ScheduleCourse, title: str) -> Figure:
    """The learning rate against epochs, and a second panel for momentum where it has a schedule."""
    figure, axes = new_figure(title, panels=2 if course.momenta else 1)
    steps = len(course.lrs)
    shown = [*range(0, steps - 1, -(-steps // POINTS)), steps - 1]
    epochs = [step / course.run.per_epoch for step in shown]
    curves = {"learning rate": course.lrs, "momentum": course.momenta}
    for axis, colour, (name, values) in zip(axes, COLOURS, curves.items(), strict=False):
        axis.plot(epochs, [values[step] for step in shown], color=colour, marker="." if steps <= 30 else None)
        axis.set(xlabel="epoch", ylabel=name)
    axes[0].set_ylim(bottom=0, top=1.05 * (max(course.lrs) or 1))
    return figure
