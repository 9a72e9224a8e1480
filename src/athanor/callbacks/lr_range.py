"""Finds the learning rate at the start of a run, which then trains with it."""

import csv
import logging
from functools import partial
from pathlib import Path
from typing import Literal

import lightning.pytorch as L
from lightning.pytorch.loggers import TensorBoardLogger

from athanor.craft.figure import save_figure
from athanor.craft.lr_range.range_report import draw_range_test, rules_table
from athanor.craft.lr_range.range_test import RULES, RangeTest, ladder, range_test

log = logging.getLogger(__name__)


class LRRange(L.Callback):
    """A range test before the first step, see lr_range.py; the run goes on as if it had been started with the answer.

    min_lr, max_lr: of the first parameter group; the others keep their ratios to it. steps, sweeps: optimizer steps of
    a sweep, and how many there are. smoothing: share of the average loss that a step keeps. rule: which answer is used.
    """

    def __init__(
        self,
        min_lr: float,
        max_lr: float,
        steps: int,
        sweeps: int,
        smoothing: float,
        rule: Literal["minimum", "steepest", "valley"],
    ) -> None:
        if not 0 < min_lr < max_lr:
            raise ValueError(
                f"callbacks.lr_range.min_lr={min_lr:g} and max_lr={max_lr:g} are no range; use 0 < min_lr < max_lr"
            )
        if steps < 20:
            raise ValueError(f"callbacks.lr_range.steps={steps} are too few to see a curve; use 20 or more")
        if sweeps < 1:
            raise ValueError(f"callbacks.lr_range.sweeps={sweeps}: use 1 or more")
        if not 0 <= smoothing < 1:
            raise ValueError(f"callbacks.lr_range.smoothing={smoothing}: use 0 (none) to below 1")
        self.lrs, self.sweeps, self.smoothing, self.rule = ladder(min_lr, max_lr, steps), sweeps, smoothing, rule
        self.results: dict = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if pl_module.is_lbfgs:
            raise ValueError("callbacks=lr_range: optim=lbfgs finds the length of each step itself; leave lr_range out")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.results or trainer.fast_dev_run:
            return  # a resumed run has its learning rate from the checkpoint
        test = self.find(trainer, pl_module)
        words = self.overrides(pl_module, test)
        log.info("%s\n%s", rules_table(test, self.rule), f"  to start with it: {' '.join(words)}")
        for warning in test.warnings:
            log.warning("the range test cannot be trusted: %s", warning)
        self._set(trainer, pl_module, test.suggestion(self.rule))
        found = {rule: {"lr": test.suggestion(rule), "spread": round(test.spread(rule), 2)} for rule in RULES}
        self.results = {"lr_range": {"rule": self.rule, "overrides": words, **found}}
        if trainer.is_global_zero:
            self._show(trainer, test)

    def find(self, trainer: L.Trainer, pl_module: L.LightningModule) -> RangeTest:
        return range_test(trainer, pl_module, self.lrs, self.sweeps, self.smoothing)

    def overrides(self, pl_module: L.LightningModule, test: RangeTest) -> list[str]:
        """What to type for a run that starts with the answer: all learning rates of the optimizer in proportion."""
        scaled = scaled_rates(pl_module, test.suggestion(self.rule))
        return [f"optim.{key}={value:g}" for key, value in scaled.items()]

    def _set(self, trainer: L.Trainer, pl_module: L.LightningModule, lr: float) -> None:
        """Make optimizer and schedules anew: whatever they compute from the learning rate, they compute from this."""
        made = pl_module.make_optimizer
        pl_module.make_optimizer = partial(made, **scaled_rates(pl_module, lr))
        trainer.strategy.setup_optimizers(trainer)

    def _show(self, trainer: L.Trainer, test: RangeTest) -> None:
        folder = Path(trainer.default_root_dir) / "figures"
        drawn = draw_range_test(test, self.rule)
        save_figure(drawn, folder / "lr_range.png")
        write(test, folder / "lr_range.csv")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure("lr_range", drawn, 0)

    def state_dict(self) -> dict:
        return self.results

    def load_state_dict(self, state: dict) -> None:
        self.results = state


def scaled_rates(pl_module: L.LightningModule, lr: float) -> dict[str, float]:
    """The optimizer's arguments that are learning rates, such that the first group steps with `lr`."""
    given = pl_module.make_optimizer.keywords
    before = pl_module.fresh_optimizer().param_groups[0]["lr"]
    rates = {"lr": before / pl_module.lr_scaling.factor(pl_module.global_batch)}
    rates |= {key: value for key, value in given.items() if (key == "lr" or key.endswith("_lr")) and value is not None}
    return {key: float(f"{value * lr / before:.3g}") for key, value in rates.items()}  # what is typed is used


def write(test: RangeTest, path: Path) -> None:
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["sweep", "lr", "loss", "smoothed"])
        for number, sweep in enumerate(test.sweeps):
            rows.writerows(zip([number] * len(sweep.lrs), sweep.lrs, sweep.losses, sweep.smoothed, strict=True))
