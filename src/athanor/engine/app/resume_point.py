"""From where a run goes on that was stopped: its newest checkpoint, or the start where it has none yet."""

import csv
import logging
import os
from pathlib import Path

from athanor.base.errors import UserError
from athanor.engine.app.ranks import PARENT
from athanor.engine.runs.run import Run, read_checkpoint, shown
from athanor.training.checkpoint_files import TornError, logged_step_in

log = logging.getLogger(__name__)


def resume_point(run: Run) -> tuple[str | None, int]:
    """The newest checkpoint of a run that can be read, and its step, as loggers count; None and 0 where it has none.

    Damaged ones are named in a warning and renamed to <name>.torn. Raises UserError, and changes nothing, where one
    cannot be read for another reason, or where a run with a history has none.
    """
    readable, torn = [], []
    for path in run.checkpoints:
        try:
            readable.append((logged_step_in(read_checkpoint(path)), path))
        except TornError as error:
            log.warning("%s", error)
            torn.append(path)
        if readable and path.name == "last.ckpt":
            break  # it is the newest
    if not readable and (present := history(run)):
        raise UserError(
            f"{shown(run.dir)} has no checkpoint to go on from, but {present}; starting over would erase that\n"
            f"  type run={shown(run.dir)} for the same run in a new folder, or delete this one"
        )
    for path in torn:
        os.replace(path, path.with_name(f"{path.name}.torn"))
    step, newest = max(readable, key=lambda pair: pair[0], default=(0, None))
    if PARENT not in os.environ:  # a rank would repeat its parent
        nothing = f"there is no checkpoint yet; starting over in {shown(run.dir)}"
        log.info("%s", f"resuming from {shown(newest)}" if newest else nothing)
    return newest and str(newest), step


def history(run: Run) -> str:
    """What starting over would erase, as a phrase; empty for a run that was stopped before its first checkpoint."""
    folder = run.dir / "checkpoints"
    if damaged := sorted(path.name for pattern in ("*.ckpt", "*.torn") for path in folder.glob(pattern)):
        return f"there are {', '.join(damaged)}"
    if epochs := run.results.get("epochs"):
        return f"results.json is of {epochs} epochs"
    # the first checkpoint is complete when the third epoch begins; a run without that callback never has one
    has_had_one = (run.config.get("callbacks") or {}).get("checkpoints") and logged_epochs(run.dir) > 2
    return "metrics.csv has more than two epochs" if has_had_one else ""


def logged_epochs(directory: Path) -> int:
    """How many epochs a run's metrics.csv has rows of, the last perhaps not complete; 0 where there is no such file."""
    path = directory / "metrics.csv"
    if not path.is_file():
        return 0
    with open(path, newline="") as file:
        numbers = [row["epoch"] for row in csv.DictReader(file)]
    return max((int(number) + 1 for number in numbers if number and number.isdigit()), default=0)
