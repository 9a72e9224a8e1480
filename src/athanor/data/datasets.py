"""Torch Datasets in the place of arrays: read once into memory, or streamed."""

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset

from athanor.base.errors import UserError, require
from athanor.data.item import as_input, as_targets
from athanor.data.seeds import global_randomness_kept, global_state, seed_item
from athanor.data.sources.source import Source
from athanor.data.streamed import Items, ReadBatch

log = logging.getLogger(__name__)

CHUNK = 64  # items that are read at a time into memory


@dataclass(frozen=True)
class Datasets:
    """Map-style torch Datasets, as those of torchvision with their transforms, whose items are (input, target).

    train, test, val: `test` is the official test set. Without `val`, validation is a part of train.
    plain: the items of train in the same order without random transforms: of them are validation, where it is a part of
        train, and what preprocessing and first weights are fitted on.
    class_names: of int64 targets; without them the attribute `classes` of train, or else numbers.

    A data set of your own is a function with the annotation `-> Datasets` in src/athanor/data/<name>.py, and a
    configs/data/<name>.yaml that begins with `defaults: [base/datasets@_here_, _self_]` and has its `_target_` and the
    values of its arguments. It is handed data_dir and split_seed, as one that returns a Source.

    Inputs are tensors, numpy arrays, PIL images (which become uint8 [C, H, W]) or numbers, all of one shape and type;
    targets are numbers or arrays of one shape. A Dataset that has its targets as `targets` or `labels` need not be
    read once for them. Random numbers come from the global generators of torch, numpy and random, which are seeded
    for each item; a generator of the Dataset's own is not, so a run with one cannot be resumed to the bit.
    """

    train: Dataset
    test: Dataset
    val: Dataset | None = None
    plain: Dataset | None = None
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in "train", "test", "val", "plain":
            dataset = getattr(self, name)
            if dataset is None and name in ("val", "plain"):
                continue
            if isinstance(dataset, IterableDataset) or not (
                hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
            ):
                raise UserError(
                    f"Datasets.{name} is a {type(dataset).__name__}, whose items have no numbers, so that the order "
                    "could not be resumed; use a map-style Dataset (__len__ and __getitem__), or a LightningDataModule"
                )
            require(len(dataset), f"Datasets.{name}: the {type(dataset).__name__} is empty")
        if self.plain is not None and len(self.plain) != len(self.train):
            raise UserError(f"Datasets.plain has {len(self.plain)} items and train {len(self.train)}; it has the same")

    def source(self, in_memory: bool, workers: int) -> Source:
        """The arrays that the items are, or, not in memory, what reads the items when a batch asks for them.

        workers: processes that read; 0: this one. Raises UserError for random items in memory, and for items that are
        no pairs of tensors of one shape.
        """
        require(workers >= 0, f"data.workers={workers}: use 0 (no processes) or more")
        given = {name: getattr(self, name) for name in ("train", "test", "val") if getattr(self, name) is not None}
        items = {name: Items(dataset, name, workers) for name, dataset in given.items()}
        is_random = draws_numbers(items["train"])
        if self.plain is not None:
            items["train"] = Items(self.plain, "plain", workers, training=self.train)
        if in_memory:
            require(
                not is_random,
                "data.in_memory=true would read the random items of the train Dataset once, and each epoch would have "
                "the same; type data.in_memory=false, or leave random transforms out and use data.augment",
            )
            parts = {name: read_all(each) for name, each in items.items()}
        else:
            parts = {name: (each, known_targets(each)) for name, each in items.items()}
            self._advise(items["train"], is_random)
        names = self._names([targets for _, targets in parts.values()])
        described = (f"{len(dataset):,} of {type(dataset).__qualname__}" for dataset in given.values())
        origin = "torch Datasets: " + ", ".join(map(" ".join, zip(given, described, strict=True)))
        return Source(*parts["train"], *parts["test"], names, origin, *parts.get("val", ()))

    def _names(self, targets: list[Tensor]) -> tuple[str, ...]:
        names, first = tuple(self.class_names or attribute(self.train, "classes") or ()), targets[0]
        if first.dtype == torch.int64 and first.ndim == 1:
            return names or tuple(map(str, range(1 + max(int(each.max()) for each in targets))))
        return names if self.class_names or (first.ndim == 2 and first.shape[1] == len(names)) else ()

    def _advise(self, items: Items, is_random: bool) -> None:
        if is_random and self.val is None and self.plain is None:
            log.warning(
                "items of the train Dataset are random, and validation and statistics have them so too; return "
                "Datasets(..., plain=<the same items without random transforms>)"
            )
        elif not is_random:
            size = f"{items.nbytes / 1e6:,.0f} MB"
            log.info("the training items are not random and take %s: data.in_memory=true reads them once", size)


def draws_numbers(items: Items) -> bool:
    """Whether items draw random numbers: from the global generators, as is seen in their states, or in another way, as
    is seen where two readings differ.
    """
    for index in items.probed[0]:
        readings = []
        for seed in 0, 1:
            with global_randomness_kept():
                seed_item(seed)
                before = global_state()
                item = items.reader.item(int(index))
                if global_state() != before:
                    return True
            readings.append(as_input(item[0]))
        if not torch.equal(*readings):
            return True
    return False


def known_targets(items: Items) -> Tensor:
    """The targets of all items: those that the Dataset lists, or, where it lists none or its items have others, those
    of one pass over the items. They become a part of the identity of the items.
    """
    index, _, own = items.probed
    targets = listed_targets(items.reader.dataset)
    if targets is None or targets[index].shape != own.shape or not torch.equal(targets[index], own):
        log.info("reading all items of the %s Dataset for their targets: it lists no others", items.reader.name)
        targets = torch.cat([own for _, _, own in all_batches(items)])
    kind = type(items.reader.dataset).__qualname__
    items.identity = f"{kind} {hashlib.sha256(targets.contiguous().numpy()).hexdigest()}"
    return targets


def listed_targets(dataset: Dataset) -> Tensor | None:
    for name in "targets", "labels":
        values = attribute(dataset, name)
        try:
            if values is not None and len(values) == len(dataset):
                return as_targets(values)
        except (UserError, TypeError):  # no numbers: what the items have counts
            continue
    return None


def attribute(dataset: Dataset, name: str) -> Any:
    """What a Dataset has under that name, or None; a torch Subset has a part of what the Dataset behind it has."""
    if isinstance(dataset, Subset):
        values = attribute(dataset.dataset, name)
        if values is None or name == "classes":
            return values
        return [values[i] for i in dataset.indices]
    return getattr(dataset, name, None)


def read_all(items: Items) -> tuple[Tensor, Tensor]:
    """Inputs and targets of all items, as arrays in memory. Raises UserError where the machine has less memory."""
    name, size = items.reader.name, items.nbytes
    if hasattr(os, "sysconf") and size > (there := os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")):
        raise UserError(
            f"data.in_memory=true: the {name} items take {size / 1e9:,.1f} GB, and this machine has "
            f"{there / 1e9:,.1f}; type data.in_memory=false"
        )
    log.info("reading %s items of the %s Dataset into memory: %.1f MB", f"{len(items):,}", name, size / 1e6)
    inputs, targets = torch.empty(items.shape, dtype=items.dtype), []
    for index, part, own in all_batches(items):
        inputs[index[0] : index[-1] + 1] = part
        targets.append(own)
    return inputs, torch.cat(targets)


def all_batches(items: Items) -> Iterator[ReadBatch]:
    """All items in their order, with a progress bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    bar = Progress(*columns, console=console, disable=not console.is_terminal)
    with bar as progress, closing(items.to(items.device)) as passed:
        task = progress.add_task(f"reading {items.reader.name} items", total=len(items))
        for batch in passed.batches(iter(torch.arange(len(items)).split(CHUNK))):
            progress.advance(task, len(batch[0]))
            yield batch
