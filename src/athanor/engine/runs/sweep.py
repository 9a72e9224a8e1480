"""A sweep is a directory of runs, with one folder for each job of a multirun."""

import json
import math
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from athanor.base.errors import UserError, require
from athanor.base.files import refuse_links, write_atomically, write_csv
from athanor.engine.config import built_here, schema
from athanor.engine.config.settings import REMARKS
from athanor.engine.runs import repeats
from athanor.engine.runs.job_folder import job_number
from athanor.engine.runs.provenance import differences, git_state
from athanor.engine.runs.run import Run, shown
from athanor.tasks.measure import LOSS, measure_of, stage_and_name, written

LIMIT = re.compile(r"\+*trainer\.max_\w+=")  # what may change where a run or a sweep goes on
UNCOMPARED = ("-", "hydra", "launcher")  # words that say how and where jobs run
FREE = (*REMARKS, *schema.UNRECORDED, "resume", "data_dir")  # settings on which no result depends
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
        self.runs = [JobRun(path) for path in sorted(folders, key=lambda path: (job_number(path), path.name))]

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

    @property
    def queue(self) -> dict[str, str]:
        """The jobs that may be in SLURM's queue: their numbers there, by their numbers here."""
        queue = self.recorded.get("queue", {})
        are_texts = isinstance(queue, dict) and all(isinstance(number, str) for number in queue.values())
        is_queue = are_texts and all(re.fullmatch(r"[0-9]+(_[0-9]+)?", number) for number in queue.values())
        require(is_queue, f"{self.dir / 'sweep.json'}: `queue` does not have numbers of SLURM's jobs")
        return queue

    def record_queue(self, queue: dict[str, str]) -> None:
        write_atomically(self.dir / "sweep.json", json.dumps({**self.recorded, "queue": queue}, indent=1) + "\n")

    def record(self, typed: list[str], slurm_job: str | None, settings: dict[str, Any]) -> None:
        """Write down what was typed, the job of SLURM, if any, and the settings that all jobs share or vary.

        A sweep that is continued keeps its record, to which new limits of the training are added. Raises UserError
        where its settings are others by now, as after a change in a study's file, and says where its code is.
        """
        recorded, git = self.recorded, git_state()
        if recorded:
            then = recorded.get("settings")
            refuse_changes(then if isinstance(then, dict) else settings, settings, f"resume={shown(self.dir)}")
            for line in differences({"git": recorded.get("git")}, {"git": git}):
                print(f"not as when {shown(self.dir)} began: {line}")
            limits = {
                word.partition("=")[0]: word for word in [*recorded.get("limits", []), *typed] if LIMIT.match(word)
            }
            recorded = {**recorded, "limits": list(limits.values())}
        else:
            recorded = {"typed": typed, "slurm_job": slurm_job, "settings": settings, "git": git}
            built_here.add(typed)
        write_atomically(self.dir / "sweep.json", json.dumps(recorded, indent=1) + "\n")

    def words(self, added: Iterable[str] = ()) -> list[str]:
        """What was typed, for starting the sweep again, with the words that a person adds.

        Raises UserError for words of a sweep that was not started here with which a file could make Hydra build objects
        or read other configs, or could choose a launcher, a logger or a place, unless the person types them again; and
        for added words that would change the jobs.
        """
        refuse_links(self.dir)
        typed, limits = self.recorded.get("typed", []), self.recorded.get("limits", [])
        is_own = built_here.is_listed(typed)
        typed = [word for word in typed if not str(word).startswith(("hydra.sweep.dir=", "launcher.wait="))]
        for word in [*([] if is_own else typed), *limits]:
            if word not in added and not is_plain(word):
                printable = ascii(str(word)[:80])[1:-1]
                raise UserError(f"resume={self.dir}: it was started with {printable}; type it again after resume=")
        for word in added:
            others = [own for own in typed if own.split("=")[0] != word.split("=")[0]]
            is_varied = any("," in own for own in typed if own not in others)
            may_change = (LIMIT.match(word) and not is_varied) or word.startswith(UNCOMPARED)
            if not (may_change or word in typed):
                raise UserError(
                    f"resume={shown(self.dir)} goes on with the sweep's own settings, trainer.max_epochs, max_steps and"
                    f" max_time apart\n  for a new sweep type python train.py {' '.join([*others, word])}"
                )
        if any(word.startswith("launcher=") for word in added):  # it may have other settings
            typed = [word for word in typed if not word.startswith(("launcher", "hydra.launcher"))]
        kept = [word for word in [*typed, *filter(LIMIT.match, limits)] if word not in added]
        return [word for word in [*kept, *added] if word not in FLAGS] + ["-m"]

    def rows(self) -> list[dict[str, Any]]:
        """A row for each job: what was asked for, how it ended, its metrics."""
        rows = []
        for run in self.runs:
            results = run.results
            typed = " ".join(results.get("overrides", []))
            row = {"job": run.dir.name.partition("_")[0], "overrides": typed, "status": results["status"]}
            for stage in "val", "test":
                row |= {f"{stage}/{name}": value for name, value in results.get(stage, {}).items()}
            row |= {"seconds": results.get("seconds"), "error": results.get("error", ""), "folder": run.dir.name}
            rows.append(row)
        return rows

    @cached_property
    def monitor(self) -> dict[str, str]:
        """Metric and mode by which the jobs are compared."""
        finished = (run for run in self.runs if run.results["status"] == "finished")
        return next((run.config["monitor"] for run in finished), {"metric": "val/loss", "mode": "min"})

    def cost(self, runs: list[Run]) -> float:
        return repeats.monitored_cost(runs, self.monitor)

    def settings_by_data(self) -> list[list[list[Run]]]:
        """For each data set the groups of finished runs that repeat a setting, the best first."""
        by_data: dict[str, list[list[Run]]] = {}
        for group in repeats.settings_groups([run for run in self.runs if run.results["status"] == "finished"]):
            by_data.setdefault(group[0].results["data"]["train_hash"], []).append(group)
        return [sorted(groups, key=self.cost) for groups in by_data.values()]

    def collect(self, table: list[str] | None = None) -> str:
        """Write results.csv and give a text for the terminal: the table of its study, else the jobs one by one."""
        rows = self.rows()
        write_csv(self.dir / "results.csv", rows + repeats.repeat_rows(self.runs))
        failed = sum(row["status"] != "finished" for row in rows)
        end = f"{len(rows)} jobs, {failed} failed" if failed else f"{len(rows)} jobs"
        where = shown(self.dir)
        ending = [f"\n  {end}; {where / 'results.csv'}", f"  tensorboard --logdir {where}", *self.test_lines(), ""]
        return "\n".join(["", *(table or self.lines(rows)), *ending])

    def lines(self, rows: list[dict[str, Any]]) -> list[str]:
        """The jobs, the best by the monitored metric first and those that failed last, then the means of repeats.

        Where settings are compared, the best of a data set is marked: a job, or the mean of those that repeat it.
        """
        shared = set.intersection(*(set(row["overrides"].split()) for row in rows)) if len(rows) > 1 else set()
        best = [settings[0] for settings in self.settings_by_data() if len(settings) > 1]
        mark = f"   <- best by {self.monitor['metric']}"
        marks = {group[0].dir: mark for group in best if math.isfinite(self.cost(group))}
        groups = sorted(repeats.repeated(self.runs), key=self.cost)
        repeated, lines = {run.dir for group in groups for run in group}, []
        pairs = zip(rows, self.runs, strict=True)
        for row, run in sorted(pairs, key=lambda pair: (pair[0]["status"] != "finished", self.cost([pair[1]]))):
            metrics = [f"{stage}/{run.headline}" for stage in ("val", "test")]
            metrics.append("/".join(stage_and_name(self.monitor["metric"])))
            measures = {name: measure_of(name, run.measures) or LOSS for name in metrics if name in row}
            differing = " ".join(word for word in row["overrides"].split() if word not in shared)
            end = "" if run.dir in repeated else marks.get(run.dir, "")
            lines.append(f"  {row['job']:>3}  {row['status']:9} {written(row, measures, gap='   ')}   {differing}{end}")
            lines += [f"       {line.strip()}" for line in row["error"].splitlines()[:2]]  # what failed, and where
        return lines + repeats.repeat_lines(groups, shared, marks)

    def test_lines(self) -> list[str]:
        """How to test the job that this sweep chooses, one for each data set; nothing where jobs read the test set.

        Of the setting with the best mean over its repeats it is the best job, both by the monitored metric.
        """
        finished = [run for run in self.runs if run.results["status"] == "finished"]
        if len(finished) < 2 or any("test" in run.results for run in finished):
            return []
        best = [settings[0] for settings in self.settings_by_data() if math.isfinite(self.cost(settings[0]))]
        chosen = [min(group, key=lambda run: self.cost([run])) for group in best]
        head = f"  the test set is unread; to test the job that is best by {self.monitor['metric']}:"
        return [head, *(f"  python scripts/evaluate.py {shown(run.dir)}" for run in chosen)] if chosen else []


def compared_settings(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a config as one flat table, without the limits of the training and what no result depends on."""
    table: dict[str, Any] = {}

    def flatten(path: str, node: Any) -> None:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                flatten(f"{path}.{key}" if path else str(key), value)
        elif not LIMIT.match(f"{path}="):
            table[path] = node

    flatten("", {key: value for key, value in config.items() if key not in FREE})
    return table


def refuse_changes(then: dict[str, Any], now: dict[str, Any], who: str) -> None:
    """Raise UserError at the first setting that differs between two tables; who: the sweep or the job, for messages."""
    for key in [*then, *(key for key in now if key not in then)]:
        before, after = then.get(key, "not set"), now.get(key, "not set")
        if before != after:
            raise UserError(
                f"{who}: {key} was {before} and is {after} now; the sweep would be a mixture of both\n"
                "  put back what has changed in configs/, or start a new sweep"
            )
