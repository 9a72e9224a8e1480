"""Checks before training, of any LightningModule and any data: `from athanor.craft.checks import check`.

A check is one file of this folder with a function `check(subject: Subject) -> Finding`, and is found by that. Its
first line says what it looks at, FAST whether it takes a second or so on a small network. It raises DoesNotApplyError
where there is nothing to look at. With TAKES_CLASSES = True it takes integer targets for classes and outputs for their
logits; only a Task says that they are, so of another module it calls nothing worse than suspicious. What it trains is
a copy (`subject.copy()`); generators are restored after it.
"""

import contextlib
import copy
import importlib
import logging
import pkgutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import lightning.pytorch as L
import torch
from torch.utils.data import DataLoader

from athanor.base.error_place import places, words
from athanor.base.errors import UserError, first_line, nearest
from athanor.craft.checks.finding import DoesNotApplyError, Finding, Report
from athanor.craft.checks.subject import Subject
from athanor.data.seeds import global_randomness_kept
from athanor.tasks.task import Task
from athanor.training.at_first_step import at_first_step


def all_checks() -> dict[str, ModuleType]:
    """The files of this folder with a function `check`, by name: the fast ones first, and each kind by the alphabet."""
    found = {info.name: importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)}
    checks = {name: module for name, module in found.items() if callable(getattr(module, "check", None))}
    return dict(sorted(checks.items(), key=lambda item: (not item[1].FAST, item[0])))


def check(
    module: L.LightningModule,
    data: L.LightningDataModule | DataLoader,
    *,
    fast: bool = False,
    only: Iterable[str] = (),
    folder: Path | None = None,
    trainer: L.Trainer | None = None,
    stop: bool = False,
    tell: Callable[[str], None] | None = None,
) -> Report:
    """Check a module with its data, before it is trained: `print(check(module, data))`. Neither is changed.

    fast: leave out what takes longer than some seconds. only: names of checks, in place of all.
    folder: for pictures; without one none is drawn. trainer: with the precision and so on of the training to come, on
    one device; without one, a plain trainer on the CPU. stop: end after the first check that says wrong.
    tell: called with the line of each check as soon as it is known.
    Raises UserError for a name that no check has.
    """
    checks = all_checks()
    for name in only:
        if name not in checks:
            raise UserError(f"there is no check {name}; {nearest(name, checks)}")
    chosen = {name: each for name, each in checks.items() if (name in only if only else each.FAST or not fast)}

    def run(trainer: L.Trainer, module: L.LightningModule) -> Report:
        subject, report = Subject(module, trainer, folder), Report()
        for name, each in chosen.items():
            report.findings[name] = finding = run_one(each, subject)
            if tell:
                tell(finding.line(name))
            if stop and finding.verdict == "wrong":
                break
        return report

    trainer = trainer or plain_trainer()
    with unnoticed(trainer.strategy.root_device, data):
        return at_first_step(trainer, copy.deepcopy(module), data, run)


@contextlib.contextmanager
def unnoticed(device: torch.device, data: L.LightningDataModule | DataLoader) -> Iterator[None]:
    """Keep the generators, and the trainer of the data, and say nothing of devices, rates and loaders within."""
    before = getattr(data, "trainer", None)
    loggers = {logger: logger.level for logger in map(logging.getLogger, ("lightning.pytorch", "athanor.tasks"))}
    try:
        with warnings.catch_warnings(), global_randomness_kept(device):
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, level in loggers.items():
            logger.setLevel(level)
        if isinstance(data, L.LightningDataModule):
            data.trainer = before


def plain_trainer() -> L.Trainer:
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return L.Trainer(accelerator="cpu", devices=1, max_epochs=1, limit_val_batches=0, num_sanity_val_steps=0, **off)


def run_one(each: ModuleType, subject: Subject) -> Finding:
    subject.seed_anew()
    try:
        finding = each.check(subject)
        if (
            finding.verdict == "wrong"
            and getattr(each, "TAKES_CLASSES", False)
            and not isinstance(subject.module, Task)
        ):
            return replace(finding, verdict="suspicious")
        return finding
    except DoesNotApplyError as reason:
        return Finding("skipped", str(reason))
    except FloatingPointError as error:
        return Finding("wrong", first_line(error), "the loss is not finite: try a smaller learning rate")
    except UserError as error:
        return Finding("wrong", first_line(error))
    except Exception as error:
        if place := places(error):  # a bug in the module, in its data or in a check of the person's own
            return Finding("wrong", words(error), place[-1].strip())
        return Finding("skipped", f"it ended with {words(error)}")  # on something that this check is not made for
