"""What a result depends on: versions, hardware, the state of the code, the data, and readings of its test set."""

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from athanor.base.files import append, write_atomically
from athanor.engine.config import options

if TYPE_CHECKING:
    from torch import Tensor

    from athanor.data.any_data_module import AnyDataModule
    from athanor.data.module import ArrayData
    from athanor.data.streamed import Items

log = logging.getLogger(__name__)

TEST_READS = Path("outputs/test_reads.txt")
SOURCES = ("*.py", "*.yaml", "*.yml", "*.toml")  # kinds of new files that belong to the state of the code,
SOURCE_BYTES = 2**20  # each of at most so many bytes,
SOURCE_FILES = 1000  # and at most so many: a Python environment that lies in the checkout has more
HASHED_AT_ONCE = 2**24  # bytes, which are copied where they lie apart
HASHED_BYTES = 2**28  # of a larger array only evenly spaced images are hashed, which takes 0.2 s


def environment(directory: Path) -> dict[str, Any]:
    """Versions, machine and code. Changes that are not committed are written to `directory`/changes.diff."""
    import torch

    packages = ("torch", "torchvision", "lightning", "hydra-core", "athanor")
    return {
        "threads": torch.get_num_threads(),
        "hardware": torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "git": git_state(directory),
    }


def git_state(directory: Path | None = None) -> dict[str, Any] | None:
    """Commit, changed files and a hash of the changes; None outside a checkout or without git.

    Source files that git does not know yet are changes like others, as the model behind a result is usually a new file.
    directory: gets the changes, as changes.diff.
    """
    try:
        root = checkout()
        changed = os.fsdecode(git(root, "status", "--porcelain", "--untracked-files=no")).rstrip().splitlines()
        new = new_sources(root)
        diff = diff_with(root, new) if changed or new else b""
        commit = git(root, "rev-parse", "HEAD").decode().strip()
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    if diff and directory:
        write_atomically(directory / "changes.diff", diff)
    changed += [f"?? {name}" for name in new]
    return {"commit": commit, "changed": changed, "diff_hash": hashlib.sha256(diff).hexdigest()[:16]}


def git(root: Path, *arguments: str, **variables: str) -> bytes:
    environment = {**os.environ, **variables}
    return subprocess.check_output(
        ["git", *arguments], cwd=root, stderr=subprocess.DEVNULL, timeout=10, env=environment
    )


def checkout() -> Path:
    """The folder of the checkout that this code lies in. Raises OSError or SubprocessError where there is none."""
    return Path(os.fsdecode(git(Path(__file__).parent, "rev-parse", "--show-toplevel")).strip())


def new_sources(root: Path) -> list[str]:
    """Source files that are neither committed nor ignored, as paths below `root`; SOURCES says which."""
    listed = git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", *SOURCES)
    names = [os.fsdecode(name) for name in listed.split(b"\0") if name]
    small = [name for name in names if (root / name).is_file() and (root / name).stat().st_size <= SOURCE_BYTES]
    return small[:SOURCE_FILES]


def diff_with(root: Path, new: list[str]) -> bytes:
    """The changes since the last commit as a patch, these new files included; git's own index stays as it is."""
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        own = root / os.fsdecode(git(root, "rev-parse", "--git-path", "index")).strip()
        if own.is_file():
            shutil.copyfile(own, index)
        if new:
            git(root, "add", "--intent-to-add", "--", *new, GIT_INDEX_FILE=str(index))
        return git(root, "diff", "--binary", "HEAD", GIT_INDEX_FILE=str(index))


def gone_sources(results: dict[str, Any], directory: Path) -> str:
    """A sentence that names new source files of a recorded run which are gone, and what has them; empty if none is."""
    recorded = results.get("git")
    changed = recorded.get("changed") if isinstance(recorded, dict) else None  # of a file that may be anybody's
    lines = [line for line in changed if str(line).startswith("?? ")] if isinstance(changed, list) else []
    gone = [line[3:] for line in lines if line.isprintable() and not (options.CONFIGS.parent / line[3:]).exists()]
    return f"{', '.join(gone[:3])} of that run is gone; it is in {directory / 'changes.diff'}" if gone else ""


def describe_data(data: "ArrayData | AnyDataModule", test: bool) -> dict[str, Any]:
    """The images: origin, numbers, hashes of the pixels and of the split; of the test images only if `test`."""
    from athanor.data.any_data_module import AnyDataModule  # imports Lightning, which takes seconds

    if isinstance(data, AnyDataModule):
        return data.described()
    sizes = {"train": len(data.train_index), "val": len(data.val_index), "test": len(data.test_index)}
    source = data.source
    hashes = {"train_hash": hash_of(source.train_inputs, source.train_targets)}
    if source.val_inputs is not None:
        hashes["val_hash"] = hash_of(source.val_inputs, source.val_targets)
    if test:
        hashes["test_hash"] = hash_of(source.test_inputs, source.test_targets)
    return {"origin": source.origin, **sizes, **hashes, "split_hash": data.split_hash}


def count_test_read(test_hash: str, reader: Path) -> int | None:
    """Write down who has read a test set, in outputs/test_reads.txt; gives how often that was, this time included.

    The file is of the folder in which commands are typed, and keeps what runs did that are deleted since. Each reading
    is a line that is appended at once, so parallel jobs lose none. None, and a warning, where it cannot be written.
    """
    try:
        TEST_READS.parent.mkdir(exist_ok=True)
        append(TEST_READS, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {test_hash} {reader}\n")
        return sum(f" {test_hash} " in line for line in TEST_READS.read_text().splitlines())
    except OSError as error:
        log.warning("this reading of the test set is not counted: %s: %s", TEST_READS, error.strerror)
        return None


def told_reads(reads: int) -> str:
    times = "once" if reads == 1 else f"{reads} times"
    return f"test set of this data read {times} below {TEST_READS.parent}/, see {TEST_READS.name}"


def hash_of(*arrays: "Tensor | Items") -> str:
    """16 hexadecimal digits that name the shapes and the contents of CPU tensors, and of Datasets some items."""
    from athanor.data.streamed import HASHED, Items

    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr(tuple(array.shape)).encode())
        every = max(-(-len(array) // HASHED) if isinstance(array, Items) else -(-array.nbytes // HASHED_BYTES), 1)
        step = every * max(HASHED_AT_ONCE * len(array) // max(array.nbytes, 1), 1)
        for start in range(0, len(array), step):
            digest.update(array[start : start + step : every].contiguous().numpy())
    return digest.hexdigest()[:16]


def differences(then: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """A line for each value that has changed, as `versions.torch 2.14 then, 2.15 now`."""
    for key, value in now.items():
        if key in ("changed", "origin") or key not in then:
            continue
        if isinstance(value, dict) and isinstance(then[key], dict):
            yield from (f"{key}.{line}" for line in differences(then[key], value))
        elif then[key] != value:
            yield f"{key} {then[key]} then, {value} now"


def compare_metrics(then: dict[str, Any], now: dict[str, Any], where: Path) -> str:
    """Lines that say whether a repeated run gave the same metrics, to the last digit."""
    stages = [stage for stage in ("train", "val", "test") if stage in then and stage in now]
    lines = [f"    {stage}/{line}" for stage in stages for line in differences(then[stage], now[stage])]
    if lines:
        return "\n".join([f"  not as in {where}:", *lines])
    return f"  {', '.join(stages)}: the same as in {where}, to the last digit"


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
