"""What the machine refused - memory, disk, files, permission - and what to type. Imports nothing heavy."""

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

# CUDA's class, NumPy's and Python's have these names; the CPU's allocator and cuBLAS raise a plain RuntimeError
NO_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|ALLOC_FAILED|Storage size calculation overflowed"
)
ASKED = re.compile(r"allocate ([\d.]+) ([KMGT]i?B|bytes)")
PACKAGE = str(Path(__file__).parents[2]) + os.sep

REFUSED = {
    errno.ENOSPC: ("the disk is full", "free some space"),
    errno.EDQUOT: ("your quota on this disk is used up", "remove some files"),
    errno.EFBIG: ("the file is larger than ulimit -f or the disk allows", "raise the limit"),
    errno.EROFS: ("this disk is read-only", "make it writable"),
    errno.EACCES: ("no permission", "change its permissions"),
    errno.EPERM: ("no permission", "change its permissions"),
    errno.EMFILE: ("too many open files", "type ulimit -n 4096"),
    errno.ENFILE: ("too many open files on this machine", "close some programs"),
}
REMEDIES = {  # by the file in which memory ran out before training
    os.path.join("data", "preprocess.py"): "use data.preprocess=standardize, or smaller images",
    "data" + os.sep: "use data.limit=1000, or smaller images",
}


def refusal(error: BaseException, log: Path | None, config: dict | None) -> str | None:
    """One or two lines where `error` is memory, disk or permission that the machine did not give, else None."""
    for cause in chain(error):
        if is_out_of_memory(cause):
            return out_of_memory(cause, config) + (f"\n  the traceback is in {log}" if log else "")
        if isinstance(cause, OSError) and (text := files(cause, log and log.parent)):
            return text
    return None


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it: torch.save says `unexpected pos` of a full disk. A ValueError, and a text that
    is ours, say enough."""
    yield error
    while not isinstance(error, (ValueError, OSError)) and (error := error.__cause__ or error.__context__):
        yield error


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and bool(NO_MEMORY.search(str(error)))


def out_of_memory(error: BaseException, config: dict | None) -> str:
    """What to make smaller, from where in the program it happened."""
    asked = ASKED.search(str(error))
    more = f" ({readable(*asked.groups())} more were asked for)" if asked else ""
    codes = list(functions(error))
    loops = {code.co_qualname.partition(".")[0] for code in codes}  # the names of Lightning's loops
    if "_EvaluationLoop" in loops:
        return f"out of memory{more} {smaller_evaluation((config or {}).get('data', {}).get('eval_batch_size'))}"
    if "_FitLoop" in loops and config:
        return f"out of memory{more} {smaller_batch(config)}"
    own = [code for code in codes if code.co_filename.startswith(PACKAGE)]
    name = own[-1].co_filename.removeprefix(PACKAGE) if own else ""
    remedy = next((remedy for place, remedy in REMEDIES.items() if name.startswith(place)), "use a smaller model")
    return f"out of memory{more}" + (f" in {own[-1].co_qualname}" if own else "") + f"; {remedy}"


def readable(number: str, unit: str) -> str:
    return f"{int(number) / 1e9:,.1f} GB" if unit == "bytes" else f"{float(number):g} {unit}"


def functions(error: BaseException) -> Iterator[CodeType]:
    """What the error came through, outermost first."""
    step = error.__traceback__
    while step:
        yield step.tb_frame.f_code
        step = step.tb_next


def smaller_batch(config: dict) -> str:
    batch, trainer = config["data"]["batch_size"], config["trainer"]
    if batch == 1:
        return "with data.batch_size=1; use a smaller model, or trainer.precision=bf16-mixed"
    half = 1024 if batch == "full" else batch // 2
    advice = f"with data.batch_size={batch}; try data.batch_size={half}"
    if batch == "full" or config["optim"]["_target_"].endswith("LBFGS"):  # which cannot accumulate
        return advice
    accumulated = 2 * (trainer.get("accumulate_grad_batches") or 1)
    return f"{advice}, and trainer.accumulate_grad_batches={accumulated} to keep the optimizer's batch"


def smaller_evaluation(batch: int | None) -> str:
    if not batch:
        return "in evaluation; try a smaller data.eval_batch_size"
    smaller = f"try data.eval_batch_size={batch // 2}" if batch > 1 else "use a smaller model"
    return f"in evaluation with data.eval_batch_size={batch}; {smaller}"


def files(error: OSError, run: Path | None) -> str | None:
    """What became of a file, of the run's directory `run` or elsewhere; None for what says enough by itself."""
    name = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else None
    ours = run is not None and (name is None or Path(os.path.abspath(name)).is_relative_to(os.path.abspath(run)))
    if isinstance(error, FileNotFoundError) and ours and name:
        gone = f"{run} was removed" if not os.path.isdir(run) else f"{name} was removed"
        return f"{gone} while the run went on\n  type the command again for a new run"
    if error.errno not in REFUSED:
        return None
    what, remedy = REFUSED[error.errno]
    where = name or (str(run) if run else "")
    line = f"{what}: {where}" if where else what
    if ours and os.path.isfile(run / "config.yaml"):
        return f"{line}\n  {remedy}, then go on with python train.py resume={run}"
    if ours or run is None:
        return f"{line}\n  {remedy}, then type the command again"
    return f"{line}\n  {remedy}, or set data_dir=<a folder you can write to>"
