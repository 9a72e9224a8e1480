"""A sweep is a directory of runs: one folder a job of a multirun."""

import csv
import json
from pathlib import Path
from typing import Any

from athanor.base.errors import UserError
from athanor.base.files import write_atomically
from athanor.engine.runs import repeats
from athanor.engine.runs.run import Run, shown
from athanor.training import slurm


class Sweep:
    def __init__(self, directory: str | Path) -> None:
        self.dir = Path(directory)
        found = [path.parent for path in self.dir.glob("*/results.json")]
        self.runs = [Run(path) for path in sorted(found, key=lambda path: (len(path.name), path.name))]

    @property
    def recorded(self) -> dict[str, Any]:
        """What was typed, and under which job of a scheduler."""
        try:
            return json.loads((self.dir / "sweep.json").read_text())
        except (OSError, ValueError):
            return {}

    def record(self, typed: list[str]) -> None:
        if not self.recorded:
            write_atomically(
                self.dir / "sweep.json",
                json.dumps({"typed": typed, "slurm_job": slurm.slurm_job_id()}, indent=1) + "\n",
            )

    def words(self) -> list[str]:
        """What was typed. A file is no place from which to take what Hydra itself builds, or from where it reads."""
        typed = [word for word in self.recorded.get("typed", []) if not str(word).startswith("hydra.sweep.dir=")]
        for word in typed:
            strange = [part for part in ("_target_", "..", "@", "hydra") if part in str(word)]
            if strange or (str(word).startswith("-") and word not in ("-m", "--multirun")):
                raise UserError(f"resume={self.dir}: it was started with {word}; type it again after resume=")
        return [word for word in typed if word not in ("-m", "--multirun")] + ["-m"]

    def rows(self) -> list[dict[str, Any]]:
        """A row a job: what was asked for, how it ended, its metrics."""
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
        """Write results.csv and give it as text, or the table of the study that this sweep is."""
        rows = self.rows()
        names = list(dict.fromkeys(name for row in rows for name in row))
        with open(self.dir / "results.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows + repeats.rows(self.runs))
        shared = set.intersection(*(set(row["overrides"].split()) for row in rows)) if len(rows) > 1 else set()
        lines = []
        for row in rows:
            scores = "   ".join(f"{name} {row[name]:.2%}" for name in ("val/acc", "test/acc") if name in row)
            differing = " ".join(word for word in row["overrides"].split() if word not in shared)
            lines.append(f"  {row['job']:>3}  {row['status']:9} {scores}   {differing}")
        lines += repeats.lines(self.runs, shared)
        failed = sum(row["status"] != "finished" for row in rows)
        end = f"{len(rows)} jobs, {failed} failed" if failed else f"{len(rows)} jobs"
        where = shown(self.dir)
        files = [f"  {end}; {where / 'results.csv'}", f"  tensorboard --logdir {where}"]
        return "\n".join(["", *(table or lines), "", *files, ""])
