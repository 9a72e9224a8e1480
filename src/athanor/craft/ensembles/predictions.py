"""What members say of images, computed once: files that are named by the contents of a checkpoint and of images."""

import hashlib
import logging
import math
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from athanor.base.files import write_atomically
from athanor.craft.ensembles.network import logits_of
from athanor.data.batches import EvalBatches
from athanor.data.module import ImageData
from athanor.data.preprocess import chunks
from athanor.engine.runs.ensembles.members import Member
from athanor.engine.runs.run import load_classifier
from athanor.tasks import tta
from athanor.tasks.classification import Classifier

log = logging.getLogger(__name__)
Stage = Literal["train", "val", "test"]
HASH = 32  # bytes of SHA-256 at the end of a file


def stacked(
    members: list[Member], data: ImageData, stage: Stage, kind: tta.Kind = "none", device: str = "cpu"
) -> Tensor:
    """Logits [M, N, num_classes] of all members, float32 on the CPU."""
    images = fingerprint(data, stage)
    return torch.stack([logits(member, data, stage, kind, device, images) for member in members])


def logits(
    member: Member,
    data: ImageData,
    stage: Stage,
    kind: tta.Kind = "none",
    device: str = "cpu",
    images: str | None = None,
) -> Tensor:
    """Logits [N, num_classes] of a member for the images of a stage, in their order: float32 on the CPU.

    images: their `fingerprint`, where it is known already. A file in `predictions/` of the member's run that has them
    spares the forward passes; one that is torn, or from another version of torch, counts for nothing.
    """
    where = torch.device(device).type
    key = repr((member.digest, images or fingerprint(data, stage), kind, where, torch.__version__))
    name = f"{member.path.stem}_{stage}_{hashlib.sha256(key.encode()).hexdigest()[:16]}.logits"
    path = member.folder / "predictions" / name
    shape = (len(batches(data, stage).index), len(data.class_names))
    found = read(path, shape)
    if found is None:
        found = predicted(load_classifier(member.path), batches(data, stage), kind, device)
        save(found, path)
    return found


@torch.inference_mode()
def predicted(classifier: Classifier, batches: EvalBatches, kind: tta.Kind = "none", device: str = "cpu") -> Tensor:
    """Logits [N, num_classes] of a classifier, float32 on the CPU; it is left on `device`, in eval mode."""
    classifier.to(device).eval()
    return torch.cat([logits_of(classifier, images.to(device), kind).float().cpu() for images, _ in batches])


def batches(data: ImageData, stage: Stage) -> EvalBatches:
    """Those of evaluate.py, without a trainer."""
    source, size = data.source, data.eval_batch_size
    if stage == "test":
        return EvalBatches(source.test_images, source.test_labels, data.test_index, size)
    index = data.val_index if stage == "val" else data.train_index
    return EvalBatches(source.train_images, source.train_labels, index, size)


def labels(data: ImageData, stage: Stage) -> Tensor:
    """int64 [N], in the order of `logits`."""
    part = batches(data, stage)
    return part.labels[part.index]


def fingerprint(data: ImageData, stage: Stage) -> str:
    """Names the images of a stage by their pixels, and the size of the batches that they come in."""
    part, digest = batches(data, stage), hashlib.sha256()
    for images in chunks(part.images, part.index):
        digest.update(images.contiguous().numpy())
    return f"{digest.hexdigest()} {tuple(part.images.shape[1:])} {part.batch_size}"


def read(path: Path, shape: tuple[int, int]) -> Tensor | None:
    try:
        contents = path.read_bytes()
    except OSError:
        return None
    numbers, digest = contents[:-HASH], contents[-HASH:]
    if len(numbers) != 4 * math.prod(shape) or hashlib.sha256(numbers).digest() != digest:
        return None
    return torch.frombuffer(bytearray(numbers), dtype=torch.float32).view(shape)


def save(found: Tensor, path: Path) -> None:
    numbers = found.contiguous().numpy().tobytes()
    try:
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, numbers + hashlib.sha256(numbers).digest())
    except OSError as error:  # a run that one may only read
        log.warning("predictions are not kept: cannot write %s (%s)", path, error.strerror)
