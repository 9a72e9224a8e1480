"""What training costs at the learning rate that a range test gives: every rule, and Lightning's own finder.

Validation losses of trainings from each seed, at each answer and at each of a grid of learning rates.
"""

import math
import tempfile
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.tuner import Tuner

from athanor.callbacks.lr_range import LRRange, scaled_lrs
from athanor.craft.lr_range.range_test import RULES
from athanor.engine.config import assemble
from athanor.tasks.classification import CONSTANT
from contenders import task

LOWEST, FACTOR = 1e-5, 2  # of the grid: 21 points reach 10.5
FINDER = {"min_lr": 1e-8, "max_lr": 1, "num_training": 100}  # Lightning's defaults


def main() -> None:
    parser = task.parser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--points", type=int, default=21)
    arguments = parser.parse_args()
    cfg = task.compose([*arguments.overrides, "callbacks=[lr_range]", "logger=[]"])
    torch.set_num_threads(1)
    data = assemble.data(cfg)
    grid = [LOWEST * FACTOR**point for point in range(arguments.points)]
    seeds = range(arguments.seeds)
    # the grid with as many seeds as make a mean; its best point is what the answers are held against
    losses = [[val_loss(cfg, data, seed, lr) for seed in seeds] for lr in grid]
    found = [answers(cfg, data, seed) for seed in seeds]
    trained = [{name: val_loss(cfg, data, seed, lr) for name, lr in found[seed].items()} for seed in seeds]
    task.write({"grid": grid, "grid_losses": losses, "answers": found, "losses": trained})


def answers(cfg: dict, data: Any, seed: int) -> dict[str, float]:
    finder = assemble.build(cfg["callbacks"]["lr_range"])
    probe = Probe(finder)
    classifier, trainer = made(cfg, data, seed, probe)
    trainer.fit(classifier, data)
    found = {rule: probe.test.suggestion(rule) for rule in RULES}
    return {**found, "lightning": lightnings(cfg, data, seed)}


def lightnings(cfg: dict, data: Any, seed: int) -> float:
    """Of its finder, with its defaults, in a trainer of its own."""
    classifier, _ = made(cfg, data, seed)
    classifier.schedule = CONSTANT  # it takes schedules away, but not before they ask for the length of the run
    classifier._check_finite = lambda *_, **__: None  # it may diverge, as it does under other modules
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(accelerator="cpu", max_epochs=-1, default_root_dir=folder, num_sanity_val_steps=0, **quiet)
        found = Tuner(trainer).lr_find(classifier, datamodule=data, update_attr=False, **FINDER)
    return found.suggestion() or math.nan


class Probe(L.Callback):
    """A range test, and nothing after it."""

    def __init__(self, finder: LRRange) -> None:
        self.finder = finder

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.test = self.finder.find(trainer, pl_module)
        trainer.should_stop = True


def made(cfg: dict, data: Any, seed: int, *callbacks: L.Callback) -> tuple[Any, L.Trainer]:
    L.seed_everything(seed, verbose=False)
    data.seed = seed
    bare = {**cfg, "seed": seed, "callbacks": {}, "logger": {}}
    classifier = assemble.classifier(bare, data)
    trainer = assemble.trainer(bare, tempfile.gettempdir(), data, classifier.network)
    trainer.callbacks.extend(callbacks)
    return classifier, trainer


def val_loss(cfg: dict, data: Any, seed: int, lr: float) -> float:
    """Of the last epoch; infinite where the training diverged."""
    if not math.isfinite(lr):
        return math.inf
    classifier, trainer = made(cfg, data, seed)
    classifier.trainer = trainer
    trainer.datamodule = data
    rates = scaled_lrs(classifier, lr)
    classifier.make_optimizer.keywords.update(rates)
    try:
        trainer.fit(classifier, data)
    except FloatingPointError:
        return math.inf
    loss = trainer.callback_metrics["val/loss"].item()
    return loss if math.isfinite(loss) else math.inf


if __name__ == "__main__":
    main()
