"""Any LightningDataModule as a data set: taken as it is, with its randomness made a function of the seed."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import lightning.pytorch as L
import torch
from lightning.fabric.utilities.apply_func import apply_to_collection
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from athanor.base.errors import UserError, require
from athanor.data.item import as_input, as_targets
from athanor.data.seeds import global_randomness_kept, mix, seed_item
from athanor.data.sources.source import Source

log = logging.getLogger(__name__)

SAMPLE_BYTES = 2**27  # of training inputs, from which preprocessing and first weights are fitted; one batch at least
SETUP = 0x7365747570  # "setup" in ASCII: makes the draws of setup independent of those of (seed, epoch)
HOOKS = (  # of Lightning, which are the module's own
    "prepare_data",
    "teardown",
    "on_exception",
    "transfer_batch_to_device",
    "on_before_batch_transfer",
    "on_after_batch_transfer",
    "state_dict",
    "load_state_dict",
)


class AnyDataModule(L.LightningDataModule):
    """A LightningDataModule that is none of ours, for the rest of Athanor: its hooks are the module's.

    The loaders of the module give (inputs, targets); needs_pairs: whether the task takes nothing else. The arguments of
    the module are the knobs of the data set; it is handed data_dir, split_seed and seed if it has arguments of these
    names. Its attributes `input_shape` and `class_names`, or `num_classes`, are believed where they are there, else the
    first training batches tell them.

    What it cannot promise: nobody knows which inputs are trained on, so nothing is hashed, and weights trained on it
    are not kept from being tested on what they have seen. `setup` and each batch of a loader begin with the global
    generators seeded by (seed, epoch, step). A run that is resumed within an epoch reads the batches of that epoch that
    were done again and drops them, and so goes on to the bit; not on several devices, nor where a loader has random
    items and persistent workers: then it does from the ends of epochs alone.
    """

    soft_targets = None
    augment = None
    views = 1

    def __init__(self, module: L.LightningDataModule, seed: int, needs_pairs: bool = True) -> None:
        self.module = module
        self.seed = seed
        self.needs_pairs = needs_pairs
        super().__init__()
        for name in HOOKS:
            setattr(self, name, getattr(module, name))
        kind = type(module).__qualname__
        module.prepare_data()
        self.setup("fit")
        inputs, targets = self._sample()
        names = self._class_names(targets)
        self.source = Source(inputs, targets, inputs[:1], targets[:1], names, f"loaders of {kind}")
        # which of the sample stand for the inputs of a stage: of validation and test whether there are any
        self.train_index = torch.arange(len(inputs))
        self.val_index = torch.arange(int(is_overridden("val_dataloader", module, L.LightningDataModule)))
        self.test_index = torch.arange(int(is_overridden("test_dataloader", module, L.LightningDataModule)))
        log.info(
            "%s is a LightningDataModule: which inputs it trains, validates and tests on is not known, so they are not "
            "hashed, nor kept apart from those of other runs",
            kind,
        )

    @property
    def trainer(self) -> L.Trainer | None:
        return self.module.trainer

    @trainer.setter
    def trainer(self, trainer: L.Trainer | None) -> None:
        self.module.trainer = trainer

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(getattr(self.module, "input_shape", self.source.train_inputs.shape[1:]))

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.source.class_names

    @property
    def split_hash(self) -> str:
        return f"of {type(self.module).__qualname__}"

    def described(self) -> dict[str, Any]:
        """What a run records of its data, in place of the hashes of inputs."""
        name = f"of {type(self.module).__module__}.{type(self.module).__qualname__}"
        sizes = {"train": None, "val": None, "test": None}
        return {"origin": self.source.origin, **sizes, "train_hash": name, "test_hash": name, "split_hash": name}

    def setup(self, stage: str | None = None) -> None:
        with global_randomness_kept():
            seed_item(mix(self.seed, SETUP))  # the same at each call, so that a split that it draws is the same
            self.module.setup(stage)

    def train_dataloader(self) -> Any:
        return self._seeded(self.module.train_dataloader(), self._position)

    def val_dataloader(self) -> Any:
        return self._seeded(self.module.val_dataloader(), lambda: (0, 0))

    def test_dataloader(self) -> Any:
        return self._seeded(self.module.test_dataloader(), lambda: (0, 0))

    def part(self, stage: Literal["train", "val", "test"]) -> NoReturn:
        raise UserError(
            f"this needs inputs with numbers, and {type(self.module).__qualname__} is a LightningDataModule, which has "
            "loaders; return a Source or Datasets"
        )

    def _seeded(self, loader: Any, position: Callable[[], tuple[int, int]]) -> Any:
        if self.trainer is not None and self.trainer.world_size > 1:
            return loader  # Lightning gives it a sampler that deals the inputs to the processes
        return SeededLoader(loader, self.seed, position)

    def _position(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 0
        return self.trainer.current_epoch, self.trainer.fit_loop.epoch_loop.batch_progress.current.ready

    def _sample(self) -> tuple[Tensor, Tensor]:
        """The inputs and targets of the first training batches."""
        inputs, targets, size = [], [], 0
        for batch in SeededLoader(self.module.train_dataloader(), self.seed, lambda: (0, 0)):
            own, other = self._pair(batch)
            inputs.append(as_input(own))
            targets.append(as_targets(other) if isinstance(other, list) else other)
            self.batch_size = self.batch_size if size else len(inputs[0])
            size += inputs[-1].nbytes
            if size >= SAMPLE_BYTES:
                break
        require(inputs, f"the train_dataloader of {type(self.module).__qualname__} gives no batch")
        self.eval_batch_size = self.batch_size
        return torch.cat(inputs), torch.cat(targets)

    def _pair(self, batch: Any) -> tuple[Any, Any]:
        """Inputs and targets of a batch; of one that is no pair its first tensor, and as many zeros."""
        if isinstance(batch, (tuple, list)) and len(batch) == 2:
            return batch
        tensors: list[Tensor] = []
        apply_to_collection(batch, Tensor, tensors.append)
        if self.needs_pairs or not tensors:
            raise UserError(
                f"a batch of {type(self.module).__qualname__} is a {type(batch).__name__}; tasks of Athanor take "
                "(inputs, targets)"
            )
        return tensors[0], torch.zeros(len(tensors[0]), dtype=torch.int64)

    def _class_names(self, targets: Tensor) -> tuple[str, ...]:
        names, count = getattr(self.module, "class_names", None), getattr(self.module, "num_classes", None)
        if names is not None:
            return tuple(map(str, names))
        if count is None and targets.dtype == torch.int64 and targets.ndim == 1:
            count = int(targets.max()) + 1
            log.info("taking the targets of the first batches for %d classes; an attribute num_classes says it", count)
        return tuple(map(str, range(count or 0)))


@dataclass
class SeededLoader:
    """A loader whose batch number k in an epoch is made after the global generators were seeded by (seed, epoch, k).

    It begins at the `position` (epoch, batches done) of the run: batches that are done are read again and dropped.
    """

    loader: Any
    seed: int
    position: Callable[[], tuple[int, int]]

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        epoch, done = self.position()
        with global_randomness_kept():
            seed_item(mix(self.seed, epoch))  # from which the order is drawn, and the seeds of workers
            batches = iter(self.loader)
        step = 0
        while True:
            with global_randomness_kept():
                seed_item(mix(self.seed, epoch, step))
                batch = next(batches, self)
            if batch is self:  # the end
                return
            if step >= done:
                yield batch
            step += 1

    # Lightning takes a loader with these two methods for one that can be resumed
    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass
