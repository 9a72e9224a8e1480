"""Files of checkpoints: never incomplete, and written in a thread while training goes on."""

import errno
import hashlib
import os
import re
import zipfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.apply_func import apply_to_collection
from torch import Tensor

from athanor.base.errors import UserError, first_line, require
from athanor.base.files import hard_link, open_new, part_of, sync_folder

CHUNK = 2**20  # bytes that are read at a time


class TornError(UserError):
    """A checkpoint file whose contents are damaged. That a file cannot be opened or read is no such damage."""


class BackgroundCheckpointIO(TorchCheckpointIO):
    """Copies a checkpoint to memory at once, and writes it in a thread after `release` has been called.

    Whoever saves can thus first write the logs that belong to the checkpoint. A run that is killed meanwhile keeps the
    file from before. One write is under way at a time; its error is raised by the next save, or at the end of the fit.
    """

    def __init__(self) -> None:
        super().__init__()
        self.thread = ThreadPoolExecutor(1, "checkpoint")
        self.pending: Future[None] | None = None  # the write that is under way
        self.held: list[Callable[[], None]] = []  # what `release` hands to the thread

    def save_checkpoint(self, checkpoint: dict, path: str | Path, storage_options: object = None) -> None:
        self.release()
        self.wait()
        copy = apply_to_collection(checkpoint, Tensor, lambda tensor: tensor.detach().to("cpu", copy=True))
        self.then(write_checkpoint, copy, Path(path))

    def then(self, function: Callable[..., None], *arguments: object) -> None:
        """Call the function in the thread, after what is held already has succeeded."""
        self.held.append(partial(function, *arguments))

    def release(self) -> None:
        held, self.held = self.held, []
        if held:
            self.wait()
            self.pending = self.thread.submit(lambda: [function() for function in held])

    def wait(self) -> None:
        """Until the write that is under way has ended. Raises its error."""
        pending, self.pending = self.pending, None
        if pending:
            pending.result()

    def teardown(self) -> None:
        self.release()
        self.wait()
        self.thread.shutdown()


def write_checkpoint(checkpoint: dict, path: Path) -> None:
    """Write the file beside its target, sync it to the disk and rename it. What was last.ckpt becomes previous.ckpt."""
    part = part_of(path)
    try:
        with open_new(part) as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        if path.name == "last.ckpt" and path.is_file():
            hard_link(path, path.with_name("previous.ckpt"))
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)  # on a full disk the incomplete file would stay in the way
        raise
    sync_folder(path.parent)


def read_checkpoint_file(path: Path, weights: bool = True) -> Any:
    """The contents of a checkpoint file: tensors, on the CPU, and plain data. Nothing in the file can run code.

    Without `weights` the tensors are memory-mapped and their checksums are not compared: for readers of the rest only.
    Raises TornError where the file is damaged, and UserError where there is no such file, where it cannot be read, is
    not a checkpoint, or would run code.
    """
    try:
        refuse_torn(path, weights)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=not weights)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}") from None
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or "out of memory"
        raise UserError(f"cannot read {path}: {reason}\n  it may be whole; try again when it can be read") from error
    except Exception as error:
        if code := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(f"{path} is not loaded, as it would call {code[1]}; a checkpoint holds data only") from None
        raise UserError(f"cannot read {path}, whose checksums are right: {first_line(error)}") from error


def refuse_torn(path: Path, weights: bool = True) -> None:
    """Raise TornError where a file is no ZIP archive, or its contents do not have the checksums that it lists.

    Torch compares no checksums: a flipped bit would be another weight. Without `weights` only the rest is compared.

    Raises OSError and MemoryError where the machine refuses to read it, which says nothing about the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > os.path.getsize(path):
                raise zipfile.BadZipFile("what is in it is larger than the file")  # packed, it could fill the memory
            names = [name for name in archive.namelist() if weights or name.endswith("data.pkl")]
            for name in names:
                with archive.open(name) as part:
                    while part.read(CHUNK):
                        pass
    except Exception as error:
        is_damage = getattr(error, "errno", None) == errno.EINVAL  # the archive names a place outside the file
        if isinstance(error, (OSError, MemoryError)) and not is_damage:
            raise
        raise TornError(f"{path} is not a checkpoint, or torn: {first_line(error)}") from error


def position_in(contents: dict[str, Any]) -> tuple[int, int]:
    """The epoch, counted from 0, and the optimizer steps at which a checkpoint with these contents was made."""
    return contents.get("epoch", -1), contents.get("global_step", -1)


def logged_step_in(contents: dict[str, Any]) -> int:
    """The steps that loggers had counted by then: as `position_in`, but several optimizers count once a batch."""
    try:
        return contents["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"]
    except (KeyError, TypeError):
        return position_in(contents)[1]


def require_epoch(path: Path, epoch: int, step: int) -> None:
    """Raise UserError where a checkpoint file is not of this epoch, counted from 0, and this step."""
    position = position_in(read_checkpoint_file(path, weights=False))
    require(
        position == (epoch, step),
        f"{path} is of epoch {position[0] + 1} and step {position[1]}, not of epoch {epoch + 1} and step {step}\n"
        f"  type python train.py resume={path.parent.parent} to put the files of its checkpoints in order",
    )


def checkpoint_digest(path: Path) -> str:
    """Names what a checkpoint file holds, in 16 hexadecimal digits. The file is not read as a whole: it is a ZIP
    archive, whose directory lists the checksum of each entry.
    """
    with zipfile.ZipFile(path) as archive:
        entries = [(entry.filename.partition("/")[2], entry.CRC, entry.file_size) for entry in archive.infolist()]
    return hashlib.sha256(repr(sorted(entries)).encode()).hexdigest()[:16]
