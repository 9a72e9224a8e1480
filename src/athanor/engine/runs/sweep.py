"""A sweep is a directory of runs, with one folder for each job of a multirun."""

import json
import math
import re
import statistics
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any

from athanor.base.errors import UserError, require
from athanor.base.files import refuse_links, write_atomically, write_csv
from athanor.engine.config import built_here
from athanor.engine.runs import repeats
from athanor.engine.runs.run import Run, shown
from athanor.tasks.measure import written

STRANGE = ("_target_", "..", "@", "hydra", "${")
FLAGS = ("-m", "--multirun")
OTHERS = r"[+~]*(launcher|logger|study\.|weights|resume|run|trust)"  # keys that a file may not set
PLACE = r"[=,\[]['\" ]*([/\\~]|\w+:[/\\])"  # a value that is a path or a URL


def is_plain(word: object) -> bool:
    """Whether a word that a file says was typed sets nothing but numbers, names, and places of the data."""
    if not isinstance(word, str) or not word.isprintable() or (word.startswith("-") and word not in FLAGS):
        return False
    if re.match(r"\+*(tags|notes|extra(\.\w+)*)=", word):  # nothing is built from these: "..." may stand in them
        return "${" not in word
    is_of_data = re.match(r"\+*data(_dir=|\.root=)", word)
    has_place = re.search(PLACE, word) and not is_of_data
    return not (has_place or re.match(OTHERS, word) or any(part in word for part in STRANGE))


class JobRun(Run):
    """A run within a sweep, whose results are read once, however many tables and figures ask for them."""

    @cached_property
    def results(self) -> dict[str, Any]:
        return super().results


class Sweep:
    """The runs of a multirun's directory, in the order of their numbers."""

    def __init__(self, directory: str | Path) -> None:
        self.dir = Path(directory)
        folders = [path.parent for path in self.dir.glob("*/results.json")]
        self.runs = [JobRun(path) for path in sorted(folders, key=lambda path: (len(path.name), path.name))]

    @property
    def recorded(self) -> dict[str, Any]:
        """What was typed, and the number of the SLURM job, if any; {} where nothing is recorded."""
        try:
            recorded = json.loads((self.dir / "sweep.json").read_text())
        except (OSError, ValueError):
            return {}
        is_record = isinstance(recorded, dict) and isinstance(recorded.get("typed"), list)
        require(is_record, f"{self.dir / 'sweep.json'} is not the record of a sweep")
        return recorded

    def record(self, typed: list[str], slurm_job: str | None) -> None:
        """Write down what was typed, and the job of SLURM, if any; a sweep that is continued keeps its record."""
        if not self.recorded:
            text = json.dumps({"typed": typed, "slurm_job": slurm_job}, indent=1)
            write_atomically(self.dir / "sweep.json", text + "\n")
            built_here.add(typed)

    def words(self, again: Collection[str] = ()) -> list[str]:
        """What was typed, for starting the sweep again, without the words `again`, which are typed once more.

        Raises UserError for words of a sweep that was not started here with which a file could make Hydra build objects
        or read other configs, or could choose a launcher, a logger or a place.
        """
        refuse_links(self.dir)
        typed = self.recorded.get("typed", [])
        if not built_here.is_listed(typed):
            for word in (word for word in typed if word not in again):
                if not is_plain(word):
                    printable = ascii(str(word)[:80])[1:-1]
                    raise UserError(f"resume={self.dir}: it was started with {printable}; type it again after resume=")
        left_out = ("-m", "--multirun", *again)
        return [word for word in typed if word not in left_out and not word.startswith("hydra.sweep.dir=")] + ["-m"]

    def rows(self) -> list[dict[str, Any]]:
        """A row for each job: what was asked for, how it ended, its metrics."""
        rows = []
        for run in self.runs:
            results = run.results
            typed = " ".join(results.get("overrides", []))
            row = {"job": run.dir.name, "overrides": typed, "status": results["status"]}
            for stage in "val", "test":
                row |= {f"{stage}/{name}": value for name, value in results.get(stage, {}).items()}
            rows.append(row | {"seconds": results.get("seconds"), "error": results.get("error", "")})
        return rows

    def collect(self, table: list[str] | None = None) -> str:
        """Write results.csv and give a text for the terminal: the table of its study, else the jobs one by one."""
        rows = self.rows()
        write_csv(self.dir / "results.csv", rows + repeats.repeat_rows(self.runs))
        shared = set.intersection(*(set(row["overrides"].split()) for row in rows)) if len(rows) > 1 else set()
        lines = []
        for row, run in zip(rows, self.runs, strict=True):
            names = [f"{stage}/{run.headline}" for stage in ("val", "test") if stage in run.results]
            scores = written(row, dict.fromkeys(names, run.measures[run.headline]), gap="   ")
            differing = " ".join(word for word in row["overrides"].split() if word not in shared)
            lines.append(f"  {row['job']:>3}  {row['status']:9} {scores}   {differing}")
        lines += repeats.repeat_lines(self.runs, shared)
        failed = sum(row["status"] != "finished" for row in rows)
        end = f"{len(rows)} jobs, {failed} failed" if failed else f"{len(rows)} jobs"
        where = shown(self.dir)
        ending = [f"\n  {end}; {where / 'results.csv'}", f"  tensorboard --logdir {where}", *self.test_lines(), ""]
        return "\n".join(["", *(table or lines), *ending])

    def test_lines(self) -> list[str]:
        """How to test the job that this sweep chooses, one for each data set; nothing where jobs read the test set.

        Of the setting with the best mean over its repeats it is the best job, both by the monitored metric.
        """
        finished = [run for run in self.runs if run.results["status"] == "finished"]
        if len(finished) < 2 or any("test" in run.results for run in finished):
            return []
        monitor = finished[0].config["monitor"]
        sign = 1 if monitor["mode"] == "min" else -1

        def cost(runs: list[Run]) -> float:
            return sign * statistics.fmean(repeats.numbers_of(runs, monitor["metric"]) or [math.nan])

        by_data: dict[str, list[list[Run]]] = {}
        for group in repeats.settings_groups(finished):
            if math.isfinite(cost(group)):
                by_data.setdefault(group[0].results["data"]["train_hash"], []).append(group)
        chosen = [min(min(found, key=cost), key=lambda run: cost([run])) for found in by_data.values()]
        head = f"  the test set is unread; to test the job that is best by {monitor['metric']}:"
        return [head, *(f"  python scripts/evaluate.py {shown(run.dir)}" for run in chosen)] if chosen else []
