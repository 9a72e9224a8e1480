"""Finds a learning rate before the first step of a run, which then trains with it."""

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import lightning.pytorch as L
from lightning.pytorch.loggers import TensorBoardLogger

from athanor.base import files
from athanor.base.errors import UserError, require
from athanor.craft.figure import save_figure
from athanor.craft.lr_range.range_report import draw_range_test, rules_table
from athanor.craft.lr_range.range_test import RULES, RangeTest, ladder, range_test
from athanor.tasks.task import require_task

log = logging.getLogger(__name__)


@dataclass(eq=False)
class LRRange(L.Callback):
    """Makes a range test (craft/lr_range/range_test.py) before the first step, and trains with the rate that it finds.

    The run then goes on to the bit as if it had been started with that learning rate.

    min_lr, max_lr: above 0, of the first parameter group; the other groups keep their ratios to it.
    steps: optimizer steps of a sweep, 20 or more. sweeps: how many sweeps, 1 or more.
    smoothing: in [0, 1), the share that the average loss so far has in the smoothed loss of a step.
    rule: which of the two answers is used.
    Raises UserError for a value outside these ranges, for L-BFGS, and where the sweeps disagree (check_spread).
    """

    min_lr: float
    max_lr: float
    steps: int
    sweeps: int
    smoothing: float
    rule: Literal["minimum", "steepest"]

    def __post_init__(self) -> None:
        if not 0 < self.min_lr < self.max_lr:
            ends = f"min_lr={self.min_lr:g} and max_lr={self.max_lr:g}"
            raise UserError(f"callbacks.lr_range.{ends} are no range; use 0 < min_lr < max_lr")
        require(self.steps >= 20, f"callbacks.lr_range.steps={self.steps} are too few to see a curve; use 20 or more")
        require(self.sweeps >= 1, f"callbacks.lr_range.sweeps={self.sweeps}: use 1 or more")
        require(0 <= self.smoothing < 1, f"callbacks.lr_range.smoothing={self.smoothing}: use 0 (none) to below 1")
        self.results: dict = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        require_task(pl_module, "callbacks=lr_range")
        if pl_module.is_lbfgs:
            raise UserError("callbacks=lr_range: optim=lbfgs finds the length of each step itself; leave lr_range out")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.results or trainer.fast_dev_run:
            return  # a resumed run has its learning rate from the checkpoint
        test = self.find(trainer, pl_module)
        log.info(rules_table(test, self.rule))
        if trainer.is_global_zero:
            self._show(trainer, test)
        for warning in test.warnings:
            log.warning("the range test cannot be trusted: %s", warning)
        test.check_spread(self.rule)
        overrides = self.overrides(pl_module, test)
        log.info("  to start with it: %s", " ".join(overrides))
        # a new optimizer and new schedules, as they may have computed other values from the old learning rate
        lrs = scaled_lrs(pl_module, test.suggestion(self.rule))
        pl_module.make_optimizer = partial(pl_module.make_optimizer, **lrs)
        trainer.strategy.setup_optimizers(trainer)
        answers = {rule: {"lr": test.suggestion(rule), "spread": round(test.spread(rule), 2)} for rule in RULES}
        self.results = {"lr_range": {"rule": self.rule, "overrides": overrides, **answers}}

    def find(self, trainer: L.Trainer, pl_module: L.LightningModule) -> RangeTest:
        lrs = ladder(self.min_lr, self.max_lr, self.steps)
        return range_test(trainer, pl_module, lrs, self.sweeps, self.smoothing)

    def overrides(self, pl_module: L.LightningModule, test: RangeTest) -> list[str]:
        """Words of a command that starts with the answer; all learning rates of the optimizer change in proportion."""
        return [f"optim.{key}={lr:g}" for key, lr in scaled_lrs(pl_module, test.suggestion(self.rule)).items()]

    def _show(self, trainer: L.Trainer, test: RangeTest) -> None:
        folder = Path(trainer.default_root_dir) / "figures"
        curves = draw_range_test(test, self.rule)
        save_figure(curves, folder / "lr_range.png")
        write_csv(test, folder / "lr_range.csv")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure("lr_range", curves, 0)

    def state_dict(self) -> dict:
        return self.results

    def load_state_dict(self, state: dict) -> None:
        self.results = state


def scaled_lrs(pl_module: L.LightningModule, lr: float) -> dict[str, float]:
    """The optimizer's arguments `lr` and `<name>_lr`, to three digits, such that the first group trains with `lr`."""
    arguments = pl_module.make_optimizer.keywords
    before = pl_module.fresh_optimizer().param_groups[0]["lr"]
    lrs = {"lr": before / pl_module.lr_scaling.factor(pl_module.global_batch)}
    lrs |= {key: rate for key, rate in arguments.items() if (key == "lr" or key.endswith("_lr")) and rate is not None}
    return {key: float(f"{rate * lr / before:.3g}") for key, rate in lrs.items()}  # as many digits as are printed


def write_csv(test: RangeTest, path: Path) -> None:
    rows = [
        {"sweep": number, "lr": lr, "loss": loss, "smoothed": smoothed}
        for number, sweep in enumerate(test.sweeps)
        for lr, loss, smoothed in zip(sweep.lrs, sweep.losses, sweep.smoothed, strict=True)
    ]
    files.write_csv(path, rows)
