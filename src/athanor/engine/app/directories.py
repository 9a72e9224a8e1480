"""A directory of its own for each run and each sweep (a callback of Hydra's, see configs/hydra/output)."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict, read_write

from athanor.base.errors import require
from athanor.base.text import printable
from athanor.engine.app.command_line import quoted
from athanor.engine.app.explain import explain
from athanor.engine.app.ranks import agreed, is_main_process
from athanor.engine.config import hydra_versions
from athanor.engine.config.check_study import check_study
from athanor.engine.runs.claim import claim
from athanor.engine.runs.job_folder import job_folder
from athanor.engine.runs.run import Run
from athanor.engine.runs.study import conclude_study
from athanor.engine.runs.sweep import Sweep, compared_settings
from athanor.training import slurm


def folder_of_job(sweep: str, number: int, words: ListConfig, varied: ListConfig) -> str:
    return job_folder(sweep, number, OmegaConf.to_container(words, resolve=False), varied)


# for configs/hydra/output; the processes of launchers have it as well, as they unpickle the callback below
hydra_versions.register_resolver("job_folder", folder_of_job, replace=True)


class Directories(Callback):
    """Gives each run and each sweep a directory of its own, and ends a sweep with its table.

    typed: the words of the command line, which the sweep records. resume: continue in the sweep's directory.
    varied: the settings by which the folders of jobs are named; configs/hydra/output reads it from here.
    """

    def __init__(self, typed: Sequence[str] = (), resume: bool = False, varied: Sequence[str] = ()) -> None:
        self.typed, self.resume, self.varied = list(typed), resume, list(varied)

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        if config.resume is None:
            HydraConfig.instance().set_config(config)  # the directory has the run's name in it
            wanted, name = config.hydra.run.dir, str(config.name)
            if "/" in name:
                before, found, after = wanted.rpartition(name)
                wanted = before + found.replace("/", "-") + after
            with ending_at_errors():
                set_hydra(config, "run", agreed(lambda: requeued_run(config, wanted) or claim(wanted)))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        wanted = config.hydra.sweep.dir
        with ending_at_errors():
            varied = settle_test(config)
            if config.hydra.runtime.choices.get("study"):
                check_study(config)
            jobs = (config.get("launcher") or {}).get("jobs", 1)
            require(isinstance(jobs, int) and jobs >= 1, f"launcher.jobs={jobs}: use 1 or more at a time")
            directory = wanted if self.resume else agreed(lambda: self.requeued_sweep(wanted) or claim(wanted))
            if is_main_process():
                Sweep(directory).record(self.typed, slurm.slurm_job_id(), shared_settings(config, varied))
        set_hydra(config, "sweep", directory)
        with read_write(config.hydra), open_dict(config.hydra):  # each job is composed anew, from these words
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(directory)}")
            keys = ",".join(map(quoted, varied))
            config.hydra.overrides.hydra.append(f"hydra.callbacks.directories.varied=[{keys}]")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if is_main_process() and not sys.exc_info()[0]:  # Hydra 1.4 calls this where the sweep was broken off, too
            sweep = Sweep(config.hydra.sweep.dir)
            if sweep.queue:
                return
            table = None
            if config.get("study"):
                node = OmegaConf.to_container(config.study, resolve=True)
                table = conclude_study(config.hydra.runtime.choices.study, node, sweep)
            print(printable(sweep.collect(table), keep="\n"))
            if any(run.results.get("status") != "finished" for run in sweep.runs):
                raise SystemExit(1)

    def requeued_sweep(self, wanted: str) -> str | None:
        """The directory of this very sweep, where SLURM has stopped it and starts it again."""
        for folder in [Path(wanted), *Path("outputs/sweeps").glob("*/*")] if slurm.is_requeued() else ():
            recorded = Sweep(folder).recorded
            if (recorded.get("slurm_job"), recorded.get("typed")) == (slurm.slurm_job_id(), self.typed):
                return str(folder)
        return None


def settle_test(config: DictConfig) -> dict[str, str]:
    """Say for the jobs of a multirun whether they read the test set, where eval.test=auto leaves it open; gives the
    settings that vary, with their values as they were typed.

    They do where nothing but the seed varies. A run that is repeated (run=<run>) has recorded what it did alone, which
    is no answer for jobs that are compared.
    """
    parameters = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    words = [*parameters, *OmegaConf.to_container(config.hydra.overrides.task, resolve=False)]
    last = {word.key_or_group: word for word in OverridesParser.create().parse_overrides(words)}
    varied = {key: word.input_line.partition("=")[2] for key, word in last.items() if word.is_sweep_override()}
    test = OmegaConf.select(config, "eval.test")  # None where eval is no node, which check.py refuses
    if test == "auto" or (test and config.run and "eval.test" not in last):
        config.eval.test = varied.keys() <= {"seed"}
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.overrides.task.append(f"eval.test={str(config.eval.test).lower()}")
    return varied


def shared_settings(config: DictConfig, varied: dict[str, str]) -> dict[str, Any]:
    """What all jobs of a sweep share, and what they vary, as one table that a resumed sweep is compared with."""
    shared = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    return {**compared_settings(OmegaConf.to_container(shared, resolve=False)), **varied}


def requeued_run(config: DictConfig, wanted: str) -> str | None:
    """The directory of this very job, where SLURM has stopped it and starts it again."""
    overrides = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    for folder in [Path(wanted), *Path("outputs").glob("*/*")] if slurm.is_requeued() else ():
        results = Run(folder).results
        if (results.get("slurm_job"), results.get("overrides")) == (slurm.slurm_job_id(), overrides):
            return str(folder)
    return None


def set_hydra(config: DictConfig, kind: str, directory: str) -> None:
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra[kind].dir = directory


@contextlib.contextmanager
def ending_at_errors() -> Iterator[None]:
    """End the process at an exception, with its explanation: Hydra would turn it into a warning and go on."""
    try:
        yield
    except Exception as error:
        print(explain(error), file=sys.stderr)
        raise SystemExit(1) from error
