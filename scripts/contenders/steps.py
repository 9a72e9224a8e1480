"""Where each microsecond of one of Athanor's training steps goes.

Training with timers around every piece costs the timers too. So the same training is measured without them as well,
and the difference is a row of its own: the rows add up to the step as it is.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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
from contenders import plain, task
from contenders.clock import Clock

REST = "Lightning's loop: the rest"
HOOKS = "on_train_batch_start", "on_train_batch_end"


def main() -> None:
    parser = task.parser()
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    cfg = task.compose(arguments.overrides)
    found = {"as it is": [], "timed": [], "plain": []}
    measures: dict[str, Callable[[], Counter]] = {
        "as it is": lambda: fit(cfg, Clock("step", waiter(cfg))),
        "timed": lambda: fit_timed(cfg),
        "plain": lambda: fit_plain(cfg),
    }
    for number in range(arguments.repeats):
        for name in list(measures) if number % 2 == 0 else reversed(measures):
            found[name].append(measures[name]())
    task.write({**found, **task.facts(task.device(cfg))})


def waiter(cfg: dict) -> Callable[[], None]:
    device = task.device(cfg)
    return lambda: task.wait_for(device)


class Steps(L.Callback):
    """Microseconds a step of each of a clock's spans, over the training steps of all epochs but the first."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.spans, self.steps = clock, Counter(), 0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.before = self.clock.snapshot()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx) -> None:
        if trainer.is_last_batch and (trainer.current_epoch > 0 or trainer.max_epochs == 1):
            self.spans += self.clock.snapshot() - self.before
            self.steps += trainer.num_training_batches

    def microseconds(self) -> Counter:
        return Counter({span: seconds * 1e6 / self.steps for span, seconds in self.spans.items()})


def fit(cfg: dict, clock: Clock) -> Counter:
    with tempfile.TemporaryDirectory() as directory:
        L.seed_everything(cfg["seed"], verbose=False)
        data = assemble.data(cfg)
        classifier = assemble.classifier(cfg, data)
        trainer = assemble.trainer(cfg, directory, data, classifier.network)
        steps = Steps(clock)
        trainer.callbacks.append(steps)
        trainer.fit(classifier, data)
        return steps.microseconds()


def fit_timed(cfg: dict) -> Counter:
    clock = Clock(REST, waiter(cfg))
    with timers(cfg, clock):
        return fit(cfg, clock)


def fit_plain(cfg: dict) -> Counter:
    loop = plain.Loop(cfg, task.Data(cfg))
    with mock.patch.dict(os.environ):
        # set by importing Lightning; with it each step of an optimizer asks the driver for GPUs, which takes 0.1 ms
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
        seconds = [loop.timed_epoch() for _ in range(cfg["trainer"]["max_epochs"])]
    seconds = seconds[1:] or seconds
    return Counter({"step": sum(seconds) * 1e6 / len(seconds) / loop.data.steps})


@contextmanager
def timers(cfg: dict, clock: Clock) -> Iterator[None]:
    """Every piece of a step replaced by itself with a timer around it."""
    with ExitStack() as patches:

        def replace(owner: object, name: str, wrapped: Callable) -> None:
            patches.enter_context(mock.patch.object(owner, name, wrapped))

        replace(TrainBatches, "__iter__", clock.timed_items("batch: order, gather, augment", TrainBatches.__iter__))
        for owner, name, span in pieces(cfg):
            replace(owner, name, clock.timed(span, getattr(owner, name)))
        yield


def pieces(cfg: dict) -> list[tuple[object, str, str]]:
    """What is timed: a class or a module, its function, and the row that it belongs to."""
    callbacks = [task.target(node) for node in cfg["callbacks"].values() if node]
    return [
        (Classifier, "on_train_batch_start", "seed of the step"),
        (task.target(cfg["data"]["preprocess"]), "forward", "preprocess"),
        (task.target(cfg["model"]), "forward", "network and loss, forward"),
        (task.target(cfg["loss"]), "forward", "network and loss, forward"),
        (torch.Tensor, "backward", "backward"),
        (task.target(cfg["optim"]), "step", "optimizer"),
        (task.target(cfg["optim"]), "zero_grad", "optimizer"),
        (Precision, "_wrap_closure", REST),  # runs inside the optimizer's step
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
