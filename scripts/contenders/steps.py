"""Where the microseconds of one of Athanor's training steps go, piece by piece.

Timers around every piece of a step cost time as well. So the same training is measured without timers too, and
benchmark.py shows the difference in a row of its own: the rows add up to the step as it is.

This file measures the inside of Lightning, so it has to use private names of Lightning: _TrainingEpochLoop runs the
steps, _LoggerConnector.update_train_step_metrics passes logged values on after each step, _call_callback_hooks calls
the callbacks, and Precision._wrap_closure runs forward and backward inside the optimizer's step. For the time of a
measurement each is replaced by itself with a timer around it. Where one is gone, the measurement fails with its name.
"""

import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from statistics import mean
from unittest import mock

import lightning.pytorch as L
import torch
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.trainer import call
from lightning.pytorch.trainer.connectors.logger_connector.logger_connector import _LoggerConnector

from athanor.data.batches import TrainBatches
from athanor.engine.config import assemble
from athanor.tasks.classification import Classifier
from contenders import plain_loop, tables, task
from contenders.clock import Clock

REST = "Lightning's loop: the rest"
HOOKS = "on_train_batch_start", "on_train_batch_end"


def main() -> None:
    cfg, options = task.from_command_line(repeats=1)
    measures = {"as it is": fit, "timed": lambda cfg: fit(cfg, timed_functions(cfg)), "plain": fit_plain_loop}
    report: dict[str, list[Counter]] = {name: [] for name in measures}
    for names in tables.alternating_order(list(measures), options.repeats):
        for name in names:
            report[name].append(measures[name](cfg))
    task.write_report({**report, **task.process_settings(task.device_of(cfg))})


class StepTimes(L.Callback):
    """Adds up the seconds of a clock's spans, and the training steps, over all epochs but the first, which warms up."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.seconds: Counter[str] = Counter()
        self.steps = 0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.before = self.clock.snapshot()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx) -> None:
        if trainer.is_last_batch and (trainer.current_epoch > 0 or trainer.max_epochs == 1):
            self.seconds += self.clock.snapshot() - self.before
            self.steps += trainer.num_training_batches


def fit(cfg: dict, timers: Sequence[tuple[object, str, str]] = ()) -> Counter[str]:
    """Microseconds of a training step, by span: of the step as it is, or of its pieces where `timers` names them."""
    clock = Clock(REST if timers else "step", partial(task.wait_for, task.device_of(cfg)))
    with tempfile.TemporaryDirectory() as directory, ExitStack() as patches:
        for owner, name, span in timers:
            timed = clock.timed_items if name == "__iter__" else clock.timed
            patches.enter_context(mock.patch.object(owner, name, timed(span, getattr(owner, name))))
        L.seed_everything(cfg["seed"], verbose=False)
        data = assemble.data(cfg)
        classifier = assemble.classifier(cfg, data)
        trainer = assemble.trainer(cfg, directory, data, classifier.network)
        trainer.callbacks.append(times := StepTimes(clock))
        trainer.fit(classifier, data)
    return Counter({span: seconds * 1e6 / times.steps for span, seconds in times.seconds.items()})


def fit_plain_loop(cfg: dict) -> Counter[str]:
    """Microseconds of a training step of the loop by hand."""
    loop = plain_loop.Loop(cfg, task.Data(cfg))
    seconds = [loop.train_epoch() for _ in range(cfg["trainer"]["max_epochs"])]
    return Counter({"step": mean(seconds[1:] or seconds) * 1e6 / loop.data.steps})


def timed_functions(cfg: dict) -> list[tuple[object, str, str]]:
    """What is timed: a class or a module, the name of its function, and the row to which its time belongs."""
    callbacks = [task.target_of(node) for node in cfg["callbacks"].values() if node]
    return [
        (TrainBatches, "__iter__", "batch: order, gather, augment"),
        (Classifier, "on_train_batch_start", "seed of the step"),
        (task.target_of(cfg["data"]["preprocess"]), "forward", "preprocess"),
        (task.target_of(cfg["model"]), "forward", "network and loss, forward"),
        (task.target_of(cfg["loss"]), "forward", "network and loss, forward"),
        (torch.Tensor, "backward", "backward"),
        (task.target_of(cfg["optim"]), "step", "optimizer"),
        (task.target_of(cfg["optim"]), "zero_grad", "optimizer"),
        (Precision, "_wrap_closure", REST),  # runs inside the optimizer's step, and is not the optimizer's work
        (Classifier, "training_step", "training_step: the rest"),
        (Classifier, "_count", "loss and accuracy sums"),
        (Classifier, "_check_finite", "is the loss finite?"),
        (Classifier, "log", "logging"),
        (_LoggerConnector, "update_train_step_metrics", "logging"),
        *((cls, hook, "callbacks") for cls in callbacks for hook in HOOKS if hook in vars(cls)),
        (call, "_call_callback_hooks", "Lightning: calling callbacks"),
        (_TrainingEpochLoop, "update_lr_schedulers", "learning-rate schedule"),
        (Strategy, "batch_to_device", "Lightning: batch to device"),
    ]


if __name__ == "__main__":
    main()
