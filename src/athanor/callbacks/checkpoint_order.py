"""Puts the files of a run's checkpoints in order: those that its state names, wherever the run was killed."""

import logging
import math
from collections.abc import Callable
from pathlib import Path

from athanor.base.files import hard_link
from athanor.training.checkpoint_files import TornError, position_in, read_checkpoint_file, refuse_torn

log = logging.getLogger(__name__)


def arrange(
    folder: Path, resumed: dict, last: dict, best: dict, kept: list[dict] | None, cost: Callable[[dict], tuple]
) -> tuple[dict, list[dict]]:
    """Link last.ckpt, best.ckpt and epoch_<n>.ckpt to the files that hold these epochs, and remove other epochs' files.

    Each epoch is an {epoch, step, score, ...}. kept: None where no epoch_<n>.ckpt belongs to the run. resumed: the
    epoch and step from which the run goes on. cost: the best epoch has the least.
    The result are the best epoch and the kept ones without those of which no file is left, which a warning names; the
    best is then the best of those that are left, or {}. Once this was done, to do it again changes nothing.
    """
    files = Files(folder, kept or [])
    if files.of(resumed) and not (folder / "last.ckpt").is_file():  # it was damaged, or is gone
        hard_link(files.of(resumed), folder / "last.ckpt")
    left = [entry for entry in kept or [] if files.of(entry)]
    for entry in kept or []:
        if entry not in left:
            log.warning("epoch %d is kept no longer, as no checkpoint of it is left", entry["epoch"] + 1)
    if best and not files.of(best):
        others = [entry for entry in (*left, last) if math.isfinite(entry["score"]) and files.of(entry)]
        other = min(others, key=cost, default={})
        instead = f"epoch {other['epoch'] + 1} is the best that is left" if other else "the best is sought anew"
        log.warning("no checkpoint of epoch %d, the best, is left; %s", best["epoch"] + 1, instead)
        best = other
    for entry in left:
        hard_link(files.of(entry), epoch_file(folder, entry))
    if best:
        hard_link(files.of(best), folder / "best.ckpt")
    else:
        (folder / "best.ckpt").unlink(missing_ok=True)
    if kept is not None:
        remove_others(folder, [epoch_file(folder, entry) for entry in left])
    return best, left


class Files:
    """The checkpoints in a folder, by the epoch and step at which they were made; damaged ones are not among them."""

    def __init__(self, folder: Path, kept: list[dict]) -> None:
        named = [folder / name for name in ("last.ckpt", "previous.ckpt", "best.ckpt")]
        self.paths: dict[tuple[int, int], Path] = {}
        for path in (*named, *(epoch_file(folder, entry) for entry in kept)):
            if path.is_file():
                try:
                    refuse_torn(path)
                    self.paths.setdefault(position_in(read_checkpoint_file(path, weights=False)), path)
                except TornError as error:
                    log.warning("%s", error)

    def of(self, entry: dict) -> Path | None:
        return self.paths.get((entry.get("epoch"), entry.get("step")))


def epoch_file(folder: Path, entry: dict) -> Path:
    return folder / f"epoch_{entry['epoch'] + 1:03d}.ckpt"  # counted from 1, as on the screen


def remove_others(folder: Path, kept: list[Path]) -> None:
    """Remove each epoch_<n>.ckpt but these."""
    for path in folder.glob("epoch_*.ckpt"):
        if path.stem.removeprefix("epoch_").isdigit() and path not in kept:
            path.unlink()
