"""What the machine refused - memory, disk space, files, permission - and what to type. Imports nothing heavy."""

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

# CUDA's class, NumPy's and Python's have these names; the CPU's allocator and cuBLAS raise a plain RuntimeError
NO_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|ALLOC_FAILED|Storage size calculation overflowed"
)
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room on the disk"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make it writable"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "type ulimit -n 4096"),
}


def machine_error(error: BaseException, log: Path | None, config: dict | None) -> str | None:
    """One or two lines where the cause of an error is memory, disk space or permission, else None.

    log: the file with the traceback, in the run's folder. config: what the run was made from, if it got so far.
    """
    for cause in causes(error):
        is_memory = isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError"
        if is_memory or (isinstance(cause, RuntimeError) and NO_MEMORY.search(str(cause))):
            return out_of_memory(config) + (f"\n  the traceback is in {log}" if log else "")
        if isinstance(cause, OSError) and (text := refused_file(cause, log and log.parent)):
            return text
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it, because torch.save reports a full disk as `unexpected pos`.

    It ends at a ValueError or an OSError, whose own text is the reason.
    """
    yield error
    while not isinstance(error, (ValueError, OSError)) and (error := error.__cause__ or error.__context__):
        yield error


def out_of_memory(config: dict | None) -> str:
    if not config:
        return "out of memory; use less data, as data.limit=1000, or smaller images"
    keys = [key for key in ("batch_size", "eval_batch_size") if key in config["data"]]
    sizes = " and ".join(f"data.{key}={config['data'][key]}" for key in keys) or "batches of this size"
    return f"out of memory with {sizes}; use smaller ones (trainer.accumulate_grad_batches), or a smaller model"


def refused_file(error: OSError, run: Path | None) -> str | None:
    """What became of a file in the run's folder `run` or elsewhere; None where the error's own text says enough."""
    name = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else None
    is_in_run = run is not None and (name is None or Path(os.path.abspath(name)).is_relative_to(os.path.abspath(run)))
    if isinstance(error, FileNotFoundError) and is_in_run and name and not (run / "config.yaml").is_file():
        return (
            f"{name if run.is_dir() else run} was removed while the run went on\n  type the command again for a new run"
        )
    if error.errno not in REMEDIES:
        return None
    if is_in_run and (run / "config.yaml").is_file():
        then = f"then go on with python train.py resume={run}"
    elif is_in_run or run is None:
        then = "then type the command again"
    else:
        then = "or set data_dir=<a folder you can write to>"
    return f"{os.strerror(error.errno)}: {name or run or ''}\n  {REMEDIES[error.errno]}, {then}"
