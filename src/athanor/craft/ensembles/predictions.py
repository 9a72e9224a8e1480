"""Logits of classifiers for the images of a data module, and files that keep them, so that each is computed once.

A file is named by all that the logits depend on: the contents of the checkpoint, the images, the views of each image
that are averaged, the kind of device and the version of torch.
"""

import errno
import hashlib
import logging
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from athanor.base.errors import UserError
from athanor.base.files import write_atomically
from athanor.craft.ensembles.network import logits_over_views
from athanor.data.batches import EvalBatches
from athanor.data.module import ArrayData
from athanor.data.preprocess import chunks
from athanor.data.streamed import Items
from athanor.tasks import tta
from athanor.tasks.classification import Classification
from athanor.training.checkpoint_files import checkpoint_digest

log = logging.getLogger(__name__)
Stage = Literal["train", "val", "test"]
Device = torch.device | str
DIGEST_BYTES = 32  # of SHA-256, at the end of a file
CHECKED = 64  # images that are predicted again, to see whether kept logits still hold
TOLERANCE = 1e-2  # of a logit, absolute and relative: an accelerator rounds by the size of a batch


@dataclass(frozen=True)
class SavedClassifier:
    """A classifier in a checkpoint file, the folder that keeps its logits, and a function that loads it."""

    checkpoint: Path
    folder: Path
    load: Callable[[], Classification]  # called where a file with the logits is not there yet


def stacked_logits(
    classifiers: list[SavedClassifier], data: ArrayData, stage: Stage, kind: tta.Kind = "none", device: Device = "cpu"
) -> Tensor:
    """Logits [M, N, num_classes] of M classifiers for the images of a stage, in their order: float32 on the CPU.

    They are read from the classifiers' folders, or computed on `device` and written there. A file that is damaged, or
    of another checkpoint, counts as missing, and where a folder cannot be written to, a warning says so. Of a file that
    is read, some images are predicted again. Raises UserError where that gives other logits.
    """
    batches = stage_batches(data, stage)
    images = fingerprint(batches)
    shape = (len(batches.index), len(data.class_names))
    logits = []
    for saved in classifiers:
        digest = checkpoint_digest(saved.checkpoint)
        key = repr((digest, images, kind, torch.device(device).type, torch.__version__))
        path = saved.folder / f"{saved.checkpoint.stem}_{stage}_{hashlib.sha256(key.encode()).hexdigest()[:16]}.logits"
        kept = read_logits(path, shape, key)
        if kept is None:
            kept = predict_logits(saved.load(), batches, kind, device)
            keep_logits(kept, path, key)
        else:
            refuse_other_logits(kept, saved, batches, kind, device)
        logits.append(kept)
    return torch.stack(logits)


@torch.inference_mode()
def predict_logits(
    classifier: Classification, batches: EvalBatches, kind: tta.Kind = "none", device: Device = "cpu"
) -> Tensor:
    """Logits [N, num_classes] of a classifier, float32 on the CPU; it is left on `device`, in eval mode."""
    classifier.to(device).eval()
    return torch.cat([logits_over_views(classifier, images.to(device), kind).float().cpu() for images, _ in batches])


def refuse_other_logits(
    kept: Tensor, saved: SavedClassifier, batches: EvalBatches, kind: tta.Kind, device: Device
) -> None:
    """Raise UserError where a classifier gives other logits than those kept for it, on images chosen at random anew."""
    sample = torch.tensor(random.SystemRandom().sample(range(len(kept)), min(CHECKED, len(kept))))
    chosen = EvalBatches(batches.images, batches.targets, batches.index[sample], batches.batch_size)
    current = predict_logits(saved.load(), chosen, kind, device)
    if not torch.isclose(current, kept[sample], rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True).all():
        raise UserError(
            f"{saved.checkpoint} gives other logits than those kept in {saved.folder}, or its code has changed\n"
            "  delete that folder and try again"
        )


def stage_batches(data: ArrayData, stage: Stage) -> EvalBatches:
    """All images of a stage in the batches that a trainer would evaluate, without a trainer and not augmented."""
    return EvalBatches(*data.part(stage), data.eval_batch_size)


def stage_labels(data: ArrayData, stage: Stage) -> Tensor:
    """Labels int64 [N] of a stage, in the order of its logits."""
    batches = stage_batches(data, stage)
    return batches.targets[batches.index]


def fingerprint(batches: EvalBatches) -> str:
    """Names images by their pixels, and by the size of the batches that they come in; items of a Dataset by their
    numbers, since reading them would take as long as predicting them.
    """
    digest = hashlib.sha256()
    is_streamed = isinstance(batches.images, Items)
    for part in [batches.images.hashes(batches.index)] if is_streamed else chunks(batches.images, batches.index):
        digest.update(part.contiguous().numpy())
    return f"{digest.hexdigest()} {tuple(batches.images.shape[1:])} {batches.batch_size}"


def read_logits(path: Path, shape: tuple[int, int], key: str) -> Tensor | None:
    """The logits in a file, or None where it is missing, damaged, of another shape or of other things than `key`."""
    try:
        contents = path.read_bytes()
    except OSError:
        return None
    numbers, digest = contents[:-DIGEST_BYTES], contents[-DIGEST_BYTES:]
    if len(numbers) != 4 * math.prod(shape) or hashlib.sha256(key.encode() + numbers).digest() != digest:
        return None
    return torch.frombuffer(bytearray(numbers), dtype=torch.float32).view(shape)


def keep_logits(logits: Tensor, path: Path, key: str) -> None:
    """Write logits and the digest of `key` and them; a folder that cannot be written to, or a link, costs a warning."""
    numbers = logits.contiguous().numpy().tobytes()
    try:
        path.parent.mkdir(exist_ok=True)
        if path.parent.is_symlink():  # beside a checkpoint in no run, of which nobody has looked for links
            raise OSError(errno.ELOOP, "it is a link")
        write_atomically(path, numbers + hashlib.sha256(key.encode() + numbers).digest())
    except OSError as error:  # a run of somebody else's, which may be read but not written to
        log.warning("predictions are not kept: cannot write %s (%s)", path, error.strerror)
