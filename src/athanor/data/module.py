"""The one data module: any source, split and cut into batches."""

import hashlib
from typing import Literal

import lightning.pytorch as L
import torch
from torch import Tensor

from athanor.data.augment import Augment
from athanor.data.batches import Batch, EvalBatches, TrainBatches
from athanor.data.sources.source import Source
from athanor.data.split import stratified


class ImageData(L.LightningDataModule):
    """Train, validation and test batches of a source.

    Validation is a stratified part of the training images: a fraction, or fold `fold` of `folds`. It is drawn by
    `split_seed`, not by the training seed, so that seeds, sweeps and ensembles share one split.
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
        augment: Augment,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.on_gpu: dict[int, tuple[Tensor, Tensor]] = {}
        self.targets: Tensor | None = None  # probabilities [N, num_classes] to train on, in place of the labels
        self.source, self.augment, self.seed, self.eval_batch_size = source, augment, seed, eval_batch_size
        kept = limited(source.train_labels, limit, split_seed)
        self.test_index = limited(source.test_labels, limit, split_seed)
        rest, part = split(source.train_labels[kept], val_fraction, folds, fold, split_seed)
        self.train_index, self.val_index = kept[rest], kept[part]
        self.batch_size = len(self.train_index) if batch_size == "full" else batch_size
        if not 0 < self.batch_size <= len(self.train_index):
            raise ValueError(
                f"data.batch_size={batch_size} does not fit {len(self.train_index)} training images; "
                f"use 1 to {len(self.train_index)}, or full"
            )
        if eval_batch_size < 1:
            raise ValueError(f"data.eval_batch_size={eval_batch_size} shows no image; use 1 or more")
        if augment.padding_mode == "reflect" and augment.crop >= min(self.input_shape[1:]):
            raise ValueError(
                f"data.augment.crop={augment.crop} mirrors more than images of {self.input_shape[2]}x"
                f"{self.input_shape[1]} have; use a smaller crop, or data.augment.padding_mode=zeros"
            )
        if augment.cutout:
            augment.mean = mean_colour(source.train_images, self.train_index)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return tuple(self.source.train_images.shape[1:])

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.source.class_names

    @property
    def split_hash(self) -> str:
        """Names the split: equal for runs that train and validate on the same images."""
        digest = hashlib.sha256()
        for part in (self.train_index, self.val_index, self.source.train_labels):
            digest.update(len(part).to_bytes(8, "little") + part.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def setup(self, stage: str | None = None) -> None:
        world_size = self.trainer.world_size
        if self.batch_size % world_size:
            raise ValueError(
                f"data.batch_size={self.batch_size} does not divide over {world_size} devices; "
                f"use a multiple of {world_size}"
            )

    def train_dataloader(self) -> TrainBatches:
        images, labels = self._placed(self.source.train_images, self.source.train_labels)
        if self.targets is not None:
            labels = self.targets.to(images.device)
        return TrainBatches(
            images, labels, self.train_index, self.batch_size, self.seed, self.augment, self._position, *self._rank()
        )

    def val_dataloader(self) -> EvalBatches:
        images, labels = self._placed(self.source.train_images, self.source.train_labels)
        return EvalBatches(images, labels, self.val_index, self.eval_batch_size, *self._rank())

    def test_dataloader(self) -> EvalBatches:
        images, labels = self._placed(self.source.test_images, self.source.test_labels)
        return EvalBatches(images, labels, self.test_index, self.eval_batch_size, *self._rank())

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        images, labels = batch
        return images.to(device, non_blocking=True), labels.to(device, non_blocking=True)

    def _rank(self) -> tuple[int, int]:
        return self.trainer.global_rank, self.trainer.world_size

    def _position(self) -> tuple[int, int]:
        return self.trainer.current_epoch, self.trainer.fit_loop.epoch_loop.batch_progress.current.ready

    def _placed(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The arrays on the GPU where they take less than half of its free memory, else where they are."""
        device = self.trainer.strategy.root_device
        if device.type != "cuda" or images.nbytes > torch.cuda.mem_get_info(device)[0] / 2:
            return images, labels
        if id(images) not in self.on_gpu:  # train and val share one array
            self.on_gpu[id(images)] = images.to(device), labels.to(device)
        return self.on_gpu[id(images)]


def mean_colour(images: Tensor, index: Tensor) -> Tensor:
    """Of about 1,000 images, spread over all classes, though the images may be sorted by class: uint8 [C, 1, 1]."""
    sample = images[index[:: -(-len(index) // 1000)]]
    return sample.transpose(0, 1).flatten(1).double().mean(1).byte()[:, None, None]


def limited(labels: Tensor, limit: int | None, seed: int) -> Tensor:
    """Indices of all images, or of about `limit` of them with every class in its share."""
    if limit is None or limit >= len(labels):
        return torch.arange(len(labels))
    if limit < 2 * len(labels.unique()):
        raise ValueError(f"data.limit={limit} is too few for {len(labels.unique())} classes; use at least two a class")
    return stratified(labels, limit / len(labels), seed)[1]


def split(labels: Tensor, val_fraction: float, folds: int | None, fold: int, seed: int) -> tuple[Tensor, Tensor]:
    if folds is not None:
        if folds < 2 or not 0 <= fold < folds:
            raise ValueError(
                f"data.folds={folds} data.fold={fold}: use folds of at least 2 and a fold from 0 to folds-1"
            )
        if folds > len(labels):
            raise ValueError(f"data.folds={folds}: there are {len(labels)} training images; use fewer folds")
        parts = stratified(labels, folds, seed)
        return torch.cat(parts[:fold] + parts[fold + 1 :]).sort().values, parts[fold]
    if not 0 <= val_fraction < 1:
        raise ValueError(f"data.val_fraction={val_fraction} is not a fraction; use 0 (no validation) to below 1")
    if val_fraction == 0:
        return torch.arange(len(labels)), torch.arange(0)
    rest, part = stratified(labels, val_fraction, seed)
    return rest, part
