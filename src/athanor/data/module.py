"""The data module for every source: it splits the images and gives batches of them."""

import hashlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import lightning.pytorch as L
import torch
from torch import Tensor, nn

from athanor.base.errors import UserError, require
from athanor.data.augmentation.augment import Augment
from athanor.data.augmentation.mixing import Mixing
from athanor.data.augmentation.own_augment import OwnAugment
from athanor.data.batches import Batch, EvalBatches, TrainBatches
from athanor.data.sources.source import Source
from athanor.data.split import limited, train_and_val
from athanor.data.streamed import Items

if TYPE_CHECKING:
    from matplotlib.figure import Figure


log = logging.getLogger(__name__)


class Part(NamedTuple):
    """The inputs of a stage: number i is inputs[index[i]], its target targets[index[i]]."""

    inputs: Tensor
    targets: Tensor
    index: Tensor  # int64


class ArrayData(L.LightningDataModule):
    """Train, validation and test batches of a source.

    Validation is a part of the training images, stratified where the targets are classes: a fraction, or fold `fold`
    of `folds`. It is drawn by `split_seed` and not by the training seed, so that seeds, sweeps and ensembles share one
    split. Where the source has an official validation set, this one is used, and all training images are trained on.

    batch_size: images of a step, over all devices; "full" is all training images. eval_batch_size: of each device.
    views: of each image in a batch; above 1, each is augmented in its own way, in validation and test too, where they
    are the same in each epoch. mixup, cutmix: of pairs of training inputs, augmentation/mixing.py.
    limit: use about so many images of train and of test. seed: of the order and the augmentation.
    Raises UserError for settings that do not fit the images.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int | Literal["full"],
        eval_batch_size: int,
        val_fraction: float,
        folds: int | None,
        fold: int,
        split_seed: int,
        limit: int | None,
        views: int,
        augment: Augment | OwnAugment,
        mixup: float = 0,
        cutmix: float = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.source = source
        self.augment = augment
        self.mixing = Mixing(mixup, cutmix, len(source.class_names))
        self.views = views
        self.seed = seed

        self.train_index, self.val_index = train_and_val_of(source, limit, val_fraction, folds, fold, split_seed)
        self.test_index = limited(source.test_targets, limit, split_seed)
        if source.fit is not None:
            self.source = source = source.fit(self.train_index)

        # batches
        self.batch_size = len(self.train_index) if batch_size == "full" else batch_size
        self.eval_batch_size = eval_batch_size
        self.preprocess: nn.Module | None = None  # of every batch, for a LightningModule that does not do it itself
        self.soft_targets: Tensor | None = None  # probabilities [N, num_classes] to train on, in place of the targets
        self.on_gpu: dict[int, tuple[Tensor, Tensor]] = {}  # copies of (images, targets) by the id of the images
        self.streams: list[Items] = []  # that loaders of this fit or test read
        self._check_sizes()
        augment.prepare(source.train_inputs, self.train_index)
        if self.mixing:
            self.mixing.check(source.train_inputs, source.train_targets)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.source.train_inputs.shape[1:])

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.source.class_names

    def part(self, stage: Literal["train", "val", "test"]) -> Part:
        """The inputs of a stage, wherever they lie: validation is a part of the training arrays, or has its own."""
        source = self.source
        if stage == "test":
            return Part(source.test_inputs, source.test_targets, self.test_index)
        if stage == "val" and source.val_inputs is not None:
            return Part(source.val_inputs, source.val_targets, self.val_index)
        return Part(source.train_inputs, source.train_targets, self.train_index if stage == "train" else self.val_index)

    @property
    def split_hash(self) -> str:
        """16 hex digits, equal for runs that train and validate on the same images."""
        digest = hashlib.sha256()
        own = () if self.source.val_targets is None else (self.source.val_targets,)
        for part in (self.train_index, self.val_index, self.source.train_targets, *own):
            digest.update(len(part).to_bytes(8, "little") + part.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def setup(self, stage: str | None = None) -> None:
        world_size = self.trainer.world_size
        if self.batch_size % world_size:
            raise UserError(
                f"data.batch_size={self.batch_size} does not divide over {world_size} devices; "
                f"use a multiple of {world_size}"
            )

    def teardown(self, stage: str | None = None) -> None:
        while self.streams:
            self.streams.pop().close()

    def on_exception(self, exception: BaseException) -> None:
        self.teardown()

    def train_dataloader(self) -> TrainBatches:
        images, targets, index = self._on_device(self.part("train"))
        if self.soft_targets is not None:
            targets = self.soft_targets.to(images.device)
        elif isinstance(images, Items):
            targets = None  # each item has its own, which may be random
        return TrainBatches(
            images,
            targets,
            index,
            self.batch_size,
            self.seed,
            self.augment,
            self._position,
            *self._rank(),
            views=self.views,
            mixing=self.mixing,
        )

    def val_dataloader(self) -> EvalBatches:
        return self._eval_batches("val")

    def test_dataloader(self) -> EvalBatches:
        return self._eval_batches("test")

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        if isinstance(batch, Tensor):  # the example of an input that Lightning's ModelSummary runs
            return batch.to(device)
        images, targets = batch
        images = images.to(device, non_blocking=True)
        if self.preprocess:
            images = self.preprocess.to(device)(images)
        return images, targets.to(device, non_blocking=True)

    def show(self, count: int = 8) -> "Figure":
        """A figure of the first training images, as they are and below it augmented, with their targets.

        Black and white are 0 and 255 of uint8, else the least and the greatest value that is shown. Raises UserError
        for inputs that are no pictures in grey or in colour.
        """
        if len(self.input_shape) != 3 or self.input_shape[0] not in (1, 3):
            raise UserError(
                f"data.show draws pictures of 1 or 3 channels, [C, H, W], and an input of this data is "
                f"{list(self.input_shape)}; look at data.source.train_inputs"
            )
        from matplotlib.figure import Figure  # takes half a second, which no training needs

        loader = self.train_dataloader()
        plain = replace(loader, augment=Augment(0, "zeros", False, 0, 0, 0), views=1, mixing=None)
        (images, targets), (changed, mixed) = next(iter(plain)), next(iter(loader))
        count = min(count, len(images))
        rows = [images[:count], *(view[:count] for view in changed.split(len(images)))]
        if images.dtype != torch.uint8:
            black, white = torch.cat(rows).float().aminmax()
            rows = [((row.float() - black) * (255 / (white - black).clamp_min(1e-9))).byte() for row in rows]
        figure = Figure(figsize=(1.1 * count, 1.2 * len(rows)), dpi=120, layout="constrained")
        axes = figure.subplots(len(rows), count, squeeze=False)
        for pictures, row in zip(rows, axes, strict=True):
            for picture, axis in zip(pictures, row, strict=True):
                axis.imshow(
                    picture.permute(1, 2, 0).cpu().numpy(), cmap="gray", vmin=0, vmax=255
                )  # or in its own colours
                axis.set_axis_off()
        for target, axis in zip(targets, axes[0], strict=False):
            is_class = target.ndim == 0 and not target.is_floating_point() and self.class_names
            axis.set_title(self.class_names[target] if is_class else f"{target.tolist()}", fontsize=8)
        for shares, axis in zip(mixed, axes[1] if self.mixing else (), strict=False):
            most = zip(*(values.tolist() for values in shares.topk(2)), strict=True)
            axis.set_title("\n".join(f"{share:.0%} {self.class_names[i]}" for share, i in most if share), fontsize=8)
        return figure

    def _check_sizes(self) -> None:
        count = len(self.train_index)
        if not 0 < self.batch_size <= count:
            raise UserError(
                f"data.batch_size={self.batch_size} does not fit {count} training images; use 1 to {count}, or full"
            )
        require(self.eval_batch_size >= 1, f"data.eval_batch_size={self.eval_batch_size}: use 1 or more")
        require(self.views >= 1, f"data.views={self.views}: use 1 or more")
        if self.views > 1 and not self.augment:
            raise UserError(
                f"data.views={self.views} gives equal inputs without augmentation; type e.g. data.augment.shift=2"
            )
        if self.views > 1 and self.augment.alternates:
            raise UserError("data.augment.flip=alternating gives all views of an image the same side; type flip=true")
        require(
            self.views == 1 or not self.mixing, f"data.views={self.views}: data.mixup and cutmix mix one view; use 0"
        )

    def _eval_batches(self, stage: Literal["val", "test"]) -> EvalBatches:
        part = self._on_device(self.part(stage))
        return EvalBatches(*part, self.eval_batch_size, *self._rank(), self.views, self.augment)

    # without a trainer, as in a notebook, loaders give the batches of one process on the CPU, from the first epoch on

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _position(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 0
        return self.trainer.current_epoch, self.trainer.fit_loop.epoch_loop.batch_progress.current.ready

    def _on_device(self, part: Part) -> Part:
        """The arrays on the GPU if the images take less than half of its free memory, else where they are."""
        images, targets, index = part
        device = self.trainer.strategy.root_device if self.trainer else images.device
        if isinstance(images, Items):
            self.streams.append(images.to(device))
            return Part(self.streams[-1], targets, index)
        if id(images) not in self.on_gpu:  # train and validation share one array
            if device.type != "cuda" or images.nbytes > torch.cuda.mem_get_info(device)[0] / 2:
                return part
            self.on_gpu[id(images)] = images.to(device), targets.to(device)
        return Part(*self.on_gpu[id(images)], index)


def train_and_val_of(
    source: Source, limit: int | None, val_fraction: float, folds: int | None, fold: int, split_seed: int
) -> tuple[Tensor, Tensor]:
    """Indices, int64, of the training inputs that are trained on, and of those of validation, which are indices of the
    validation set where the source has one.
    """
    kept = limited(source.train_targets, limit, split_seed)
    if source.val_inputs is not None:
        require(folds is None, f"data.folds={folds}: this data has a validation set of its own; use data.folds=null")
        log.info("validating on the data's own validation set; data.val_fraction=%s is not used", val_fraction)
        return kept, limited(source.val_targets, limit, split_seed)
    groups, times = (None if values is None else values[kept] for values in (source.groups, source.times))
    targets = source.train_targets[kept]
    train, val = train_and_val(targets, val_fraction, folds, fold, split_seed, groups, times)
    return kept[train], kept[val]
