"""Ask something of a training that is set up, at the point where it would make its first step, and do not train."""

from collections.abc import Callable
from typing import TypeVar

import lightning.pytorch as L
from lightning.pytorch.callbacks import LambdaCallback

T = TypeVar("T")


def at_first_step(
    trainer: L.Trainer,
    module: L.LightningModule,
    data: L.LightningDataModule,
    function: Callable[[L.Trainer, L.LightningModule], T],
) -> T:
    """What `function(trainer, module)` returns where `trainer.fit` has set everything up and made no step.

    The optimizer, its schedulers and the data loaders are there; no batch is read and nothing is trained. A trainer
    with min_epochs or min_steps would train for so long all the same (assemble.bare_trainer has none).
    """
    answers: list[T] = []

    def ask_and_stop(trainer: L.Trainer, module: L.LightningModule) -> None:
        answers.append(function(trainer, module))
        trainer.should_stop = True

    trainer.callbacks.append(LambdaCallback(on_train_start=ask_and_stop))
    trainer.fit(module, data)
    return answers[0]
