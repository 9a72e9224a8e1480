"""What training costs at the learning rate that a range test gives: with every rule, and with Lightning's own finder.

Reports the validation losses of trainings from each seed, at each answer and at each learning rate of a grid.
"""

import math
import tempfile
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.tuner import Tuner

from athanor.callbacks.lr_range import scaled_lrs
from athanor.craft.lr_range.range_test import RULES
from athanor.engine.config import assemble
from athanor.tasks.optimized import CONSTANT
from athanor.training.at_first_step import at_first_step
from contenders import task

LOWEST, FACTOR = 1e-5, 2  # of the grid: 21 points reach 10.5
FINDER = {"min_lr": 1e-8, "max_lr": 1, "num_training": 100}  # Lightning's defaults


def main() -> None:
    cfg, options = task.from_command_line(seeds=5, points=21)  # the words have to choose callbacks=lr_range
    data = assemble.data(cfg)
    grid = [LOWEST * FACTOR**point for point in range(options.points)]
    seeds = range(options.seeds)
    # all seeds train at each point of the grid, so that its best point can be compared with the answers
    grid_losses = [[val_loss(cfg, data, seed, lr) for seed in seeds] for lr in grid]
    answers = [suggested_rates(cfg, data, seed) for seed in seeds]
    losses = [{name: val_loss(cfg, data, seed, lr) for name, lr in answers[seed].items()} for seed in seeds]
    task.write_report({"grid": grid, "grid_losses": grid_losses, "answers": answers, "losses": losses})


def suggested_rates(cfg: dict, data: Any, seed: int) -> dict[str, float]:
    """The learning rate of each rule of the range test, and that of Lightning's finder (nan where it has none)."""
    finder = assemble.build(cfg["callbacks"]["lr_range"], "callbacks")
    classifier, trainer = fresh_training(cfg, data, seed)
    test = at_first_step(trainer, classifier, data, finder.find)
    return {**{rule: test.suggestion(rule) for rule in RULES}, "lightning": lightning_suggestion(cfg, data, seed)}


def lightning_suggestion(cfg: dict, data: Any, seed: int) -> float:
    """The answer of Lightning's finder, with its defaults and a trainer of its own."""
    classifier, _ = fresh_training(cfg, data, seed)
    classifier.schedule = CONSTANT  # the finder removes schedules, but only after they asked for the length of the run
    classifier.check_finite = lambda *_, **__: None  # the finder's steps may diverge, as they may in other modules
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(accelerator="cpu", max_epochs=-1, default_root_dir=folder, num_sanity_val_steps=0, **quiet)
        finder = Tuner(trainer).lr_find(classifier, datamodule=data, update_attr=False, **FINDER)
    return finder.suggestion() or math.nan


def fresh_training(cfg: dict, data: Any, seed: int) -> tuple[Any, L.Trainer]:
    """The classifier from its first weights, and a trainer that only trains it."""
    L.seed_everything(seed, verbose=False)
    data.seed = seed
    cfg = {**cfg, "seed": seed}
    classifier = assemble.task(cfg, data)
    return classifier, assemble.bare_trainer(cfg, tempfile.gettempdir(), data, classifier)


def val_loss(cfg: dict, data: Any, seed: int, lr: float) -> float:
    """The validation loss of the last epoch; infinite where the training diverged."""
    if not math.isfinite(lr):
        return math.inf
    classifier, trainer = fresh_training(cfg, data, seed)
    classifier.trainer = trainer  # scaled_lrs asks it for the size of a batch
    trainer.datamodule = data
    classifier.make_optimizer.keywords.update(scaled_lrs(classifier, lr))
    try:
        trainer.fit(classifier, data)
    except FloatingPointError:
        return math.inf
    loss = trainer.callback_metrics["val/loss"].item()
    return loss if math.isfinite(loss) else math.inf


if __name__ == "__main__":
    main()
