"""Files of checkpoints: never incomplete, and written in a thread while training goes on."""

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

from athanor.base.errors import UserError, first_line
from athanor.base.files import hard_link, open_new, part_of, sync_folder


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
    Raises UserError where there is no such file, and where it is not a checkpoint, is damaged, or would run code.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise zipfile.BadZipFile("what is in it is larger than the file")  # packed, it could fill the memory
            damaged = weights and archive.testzip()  # torch compares no checksums: a flipped bit would be a weight
        if damaged:
            raise zipfile.BadZipFile(f"{damaged} in it has a wrong checksum")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=not weights)
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}") from None
    except Exception as error:
        if code := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(f"{path} is not loaded, as it would call {code[1]}; a checkpoint holds data only") from None
        raise UserError(f"{path} is not a checkpoint, or torn: {first_line(error)}") from error


def checkpoint_digest(path: Path) -> str:
    """Names what a checkpoint file holds, in 16 hexadecimal digits. The file is not read as a whole: it is a ZIP
    archive, whose directory lists the checksum of each entry.
    """
    with zipfile.ZipFile(path) as archive:
        entries = [(entry.filename.partition("/")[2], entry.CRC, entry.file_size) for entry in archive.infolist()]
    return hashlib.sha256(repr(sorted(entries)).encode()).hexdigest()[:16]
