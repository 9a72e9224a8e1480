"""The items of a torch Dataset, read when a batch asks for them, by worker processes or in this one."""

import hashlib
import os
import random
import signal
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from athanor.base.errors import UserError
from athanor.data.item import ItemError, as_input, as_targets
from athanor.data.seeds import global_randomness_kept, mix, seed_item

EVALUATION = (0x6576616C,)  # "eval" in ASCII: the moment of all that is not training, so its items are always the same
FITTED = 10_000  # items at most from which preprocessing is fitted,
PROBED = 8  # are read at the beginning to see what all are,
HASHED = 64  # and whose contents name a Dataset
GRACE = 5  # seconds

Moment = tuple[int, ...]  # (seed, epoch) in training
ReadBatch = tuple[Tensor, Tensor, Tensor]  # indices int64 [N], inputs [N, ...], targets [N, ...]


class Items:
    """The inputs of a map-style Dataset in the place of an array [N, ...], for the fields `*_inputs` of a Source.

    Nothing is kept: indexing reads, and `batches` reads ahead with `workers` processes. Random numbers that an item
    draws from the global generators of torch, numpy and random are functions of (seed, epoch, index) in training, and
    of the index alone elsewhere, whatever the number of workers is.

    name: for messages, as "train". training: the Dataset that batches of training come from, if it is another one, with
    the same items in the same order: `dataset` then has them without augmentation.
    shape, dtype: of all inputs, as those of the first item.
    """

    device = torch.device("cpu")  # where indices are taken from; `to` says where batches go

    def __init__(self, dataset: Dataset, name: str, workers: int, training: Dataset | None = None) -> None:
        self.reader = Reader(dataset, name)
        self.training = Reader(dataset, name) if training is None else Reader(training, "train")
        self.workers = workers
        self.target_device = self.device
        self.identity = ""  # what `hashes` tells one Dataset from another by
        self.loaders: dict[Reader, DataLoader] = {}
        self.passes: dict[Reader, Iterator] = {}  # over these loaders
        probes = at_distances(torch.arange(len(dataset)), PROBED)
        self.probed = self.reader.read(EVALUATION, probes)
        inputs = self.probed[1]
        self.shape = torch.Size([len(dataset), *inputs.shape[1:]])
        self.dtype = inputs.dtype
        if training is not None:
            self.training.stacked([inputs[0], self.training.read(EVALUATION, probes)[1][0]], [0, 0])

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that all inputs would take in memory."""
        return self.numel() * self.dtype.itemsize

    def numel(self) -> int:
        return self.shape.numel()

    def to(self, device: torch.device) -> "Items":
        """The same items, with workers of their own and batches on that device."""
        moved = object.__new__(type(self))
        vars(moved).update(vars(self), loaders={}, passes={}, target_device=device)
        return moved

    def close(self) -> None:
        """End the workers; others begin with the next pass."""
        self.passes.clear()
        self.loaders.clear()

    def __getitem__(self, index: int | slice | Tensor) -> Tensor:
        """Inputs as an array of them would give: one, or [n, ...] of a slice or of indices int64 [n]."""
        if isinstance(index, int):
            return self[torch.tensor([index])][0]
        chosen = torch.arange(len(self))[index]
        if not len(chosen):
            return torch.empty(0, *self.shape[1:], dtype=self.dtype)
        with closing(self.to(self.device)) as own:
            return torch.cat([inputs for _, inputs, _ in own.batches(iter(chosen.split(64)))])

    def batches(self, parts: Iterator[Tensor], *moment: int) -> Iterator[ReadBatch]:
        """Indices, inputs and targets of the items that each of `parts`, int64, names; workers read ahead of them.

        moment: (seed, epoch) of training; none elsewhere.
        """
        reader = self.training if moment else self.reader
        if reader not in self.loaders:
            self.loaders[reader] = DataLoader(
                reader,
                batch_size=None,  # what the sampler gives names a whole batch
                sampler=Keys(),
                num_workers=self.workers,
                pin_memory=self.target_device.type == "cuda",
                persistent_workers=self.workers > 0,
                worker_init_fn=leave_signals,
                generator=torch.Generator(),  # of its own, else it would draw from the global one
            )
        self.loaders[reader].sampler.keys = ((moment or EVALUATION, part.tolist()) for part in parts)
        # held by this object alone, so that `close` ends the workers though a traceback still holds this frame
        self.passes[reader] = iter(self.loaders[reader])
        while (batch := next(self.passes[reader], None)) is not None:
            yield tuple(part.to(self.target_device, non_blocking=True) for part in whole(batch))

    def hashes(self, index: Tensor) -> Tensor:
        """A number for each of these items, int64 [n], of `identity` and the number of the item alone: to read their
        contents would take an epoch.
        """
        return digests(self.identity.encode() + number.to_bytes(8, "little") for number in index.tolist())


def digests(contents: Iterable[bytes]) -> Tensor:
    """A number for each of them, int64 [n] (BLAKE2b)."""
    numbers = b"".join(hashlib.blake2b(each, digest_size=8).digest() for each in contents)
    return torch.from_numpy(np.frombuffer(numbers, dtype=np.int64).copy())


def at_distances(index: Tensor, most: int) -> Tensor:
    """At most so many of these indices, at equal distances: items may be sorted by class."""
    return index[:: max(-(-len(index) // most), 1)]


def statistics_index(inputs: Tensor | Items, index: Tensor) -> Tensor:
    """Which of inputs[index] preprocessing is fitted on: all of an array, of a Dataset at most FITTED."""
    return at_distances(index, FITTED) if isinstance(inputs, Items) else index


class Keys:
    """What a loader reads in the next pass over it; a sampler for DataLoader."""

    keys: Iterable[tuple[Moment, list[int]]] = ()

    def __iter__(self) -> Iterator[tuple[Moment, list[int]]]:
        return iter(self.keys)


class Reader(Dataset):
    """Reads batches of a Dataset; `reader[moment, indices]` is one, or the exception that has to be raised for it: one
    that leaves a worker would be buried in a traceback.
    """

    def __init__(self, dataset: Dataset, name: str) -> None:
        self.dataset = dataset
        self.name = name
        self.draws_random = False  # whether an item has drawn from the module `random`

    def __getitem__(self, key: tuple[Moment, list[int]]) -> ReadBatch | UserError | ItemError:
        moment, indices = key
        inputs, targets = [], []
        with nullcontext() if get_worker_info() else as_in_a_worker():
            try:
                seeds = mix(mix(*moment), np.array(indices, dtype=np.uint64)).tolist()
                random.seed(0)
                unused = random.Random(0)
                for index, seed in zip(indices, seeds, strict=True):
                    seed_item(seed, self.draws_random)
                    x, y = self.item(index)
                    # seeding `random` takes as long as all else, so it waits for the first item that draws from it
                    if not self.draws_random and random.getrandbits(64) != unused.getrandbits(64):
                        self.draws_random = True
                        seed_item(seed)
                        x, y = self.item(index)
                    inputs.append(as_input(x))
                    targets.append(y)
                return torch.tensor(indices), self.stacked(inputs, indices), as_targets(targets)
            except (UserError, ItemError) as error:
                return error

    def read(self, moment: Moment, index: Tensor) -> ReadBatch:
        """The batch of these indices, int64 [n], read in this process."""
        return whole(self[moment, index.tolist()])

    def item(self, index: int) -> tuple[Any, Any]:
        try:
            item = self.dataset[index]
        except Exception as error:
            lines = "".join(traceback.format_exception(error))
            reason = f"{type(error).__name__}: {error}\n{lines}"
            raise ItemError(f"item {index} of the {self.name} Dataset: {reason}") from error
        if isinstance(item, (tuple, list)) and len(item) == 2:
            return item
        got = f"{len(item)} values" if isinstance(item, (tuple, list)) else f"a {type(item).__name__}"
        raise UserError(
            f"item {index} of the {self.name} Dataset is {got}; a Dataset gives (input, target), and where nothing is "
            "a target, as for task=autoencoder, (input, 0)"
        )

    def stacked(self, inputs: list[Tensor], indices: list[int]) -> Tensor:
        first = inputs[0]
        if all(each.dtype is first.dtype and each.shape == first.shape for each in inputs):
            return torch.stack(inputs)
        other = next(i for i, each in enumerate(inputs) if (each.dtype, each.shape) != (first.dtype, first.shape))
        a, b = (f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}" for x in (first, inputs[other]))
        raise UserError(
            f"items of the {self.name} Dataset differ: number {indices[0]} is {a}, number {indices[other]} is {b}; "
            "give all one size and type, as torchvision.transforms.v2.Resize((64, 64)) does"
        )


def whole(batch: ReadBatch | UserError | ItemError) -> ReadBatch:
    if isinstance(batch, Exception):
        # a new one: a frame that holds what is raised would keep the workers, which send no cause
        raise type(batch)(*batch.args) from batch.__cause__
    return batch


@contextmanager
def as_in_a_worker() -> Iterator[None]:
    """Read as a worker does: with one thread, since a sum over several differs in its last bits, and without a trace in
    the global generators.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with global_randomness_kept():
            yield
    finally:
        torch.set_num_threads(threads)


def leave_signals(worker: int) -> None:
    """Leave Ctrl-C, and what a cluster sends to all processes of a job, to the main process: it ends its step with a
    batch of this worker, saves, and then ends its workers. SIGTERM also ends a worker, GRACE seconds later.
    """
    for name in "SIGINT", "SIGUSR1", "SIGUSR2":
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)

    def end_later(*_: object) -> None:
        timer = threading.Timer(GRACE, os._exit, [0])
        timer.daemon = True
        timer.start()

    signal.signal(signal.SIGTERM, end_later)
