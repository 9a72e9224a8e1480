"""The jobs of a sweep, each in a process of its own that submitit starts: on this machine, or in SLURM's queue.

Each process gets its job's config as it was composed here, so configs/ may change while the job waits. What a job did
is read from its folder. The pickles that submitit writes are read by the processes that they were written for alone.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides, run_job, setup_globals
from omegaconf import DictConfig, open_dict, read_write

from athanor.base.errors import UserError, require
from athanor.base.text import printable
from athanor.engine.app import slots
from athanor.engine.app.command_line import as_hydras_job
from athanor.engine.app.explain import explain
from athanor.engine.app.resumed_sweep import has_new_limits
from athanor.engine.runs.claim import hold
from athanor.engine.runs.run import Run, shown
from athanor.engine.runs.sweep import Sweep
from athanor.tasks.measure import written
from athanor.training import slurm

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction

    from hydra_plugins.athanor_launcher import AthanorLauncher

LONGEST_PAUSE = 30  # seconds between two looks at SLURM's queue


class JobProcess:
    """What submitit calls in the process of a job: the rest of what Hydra's own launcher does, in this process."""

    def __init__(self, context: "HydraContext", task_function: "TaskFunction") -> None:
        self.context, self.task_function, self.singletons = context, task_function, Singleton.get_state()

    def __call__(self, config: DictConfig, slot: slots.Slot | None = None) -> None:
        Singleton.set_state(self.singletons)
        setup_globals()
        if slot:
            slots.enter(slot)
        places = {"job_dir_key": "hydra.sweep.dir", "job_subdir_key": "hydra.sweep.subdir"}
        try:
            done = run_job(hydra_context=self.context, task_function=self.task_function, config=config, **places)
            done.return_value  # noqa: B018  # raises the error of a job that did not get as far as its results.json
        except Exception as error:
            print(explain(error), file=sys.stderr)
            raise SystemExit(1) from None

    def checkpoint(self, *arguments: Any) -> Any:
        """What SLURM is to start again, which submitit asks for: the same, as a job goes on in its folder."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *arguments)


class SweepJob:
    """A job of a sweep: its number, its words, its config and the run in its folder."""

    name: str  # its number, and the words that not all jobs have

    def __init__(self, launcher: "AthanorLauncher", number: int, overrides: Sequence[str]) -> None:
        self.number, self.words = number, list(filter_overrides(overrides))
        self.config = launcher.context.config_loader.load_sweep_config(launcher.config, list(overrides))
        with open_dict(self.config.hydra.job):
            self.config.hydra.job.num, self.config.hydra.job.id = number, str(number)
        with as_hydras_job(self.config):
            folder = str(self.config.hydra.sweep.subdir)
        with read_write(self.config.hydra):
            self.config.hydra.sweep.subdir = folder  # its process has not to find the name again
        self.run = Run(Path(self.config.hydra.sweep.dir, folder))

    def is_missing(self) -> bool:
        """Whether it has something left to do: it has not finished, or is given other limits of its training."""
        is_done = self.run.results.get("status") == "finished"
        return not is_done or has_new_limits(self.run.config["trainer"], self.config.trainer)

    def tell_end(self, log: Path) -> None:
        """Say how its process ended; one that has left no results is recorded as failed, with the end of its log."""
        if self.run.dir.is_dir():
            os.listdir(self.run.dir)  # NFS then looks again at what it has there
        results = self.run.results
        if not results:
            lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
            reason = lines[-1] if lines else f"its process wrote nothing into {shown(log)}"
            results = {"status": "failed", "overrides": self.words, "error": reason.removeprefix("error: ")}
            self.run.dir.mkdir(parents=True, exist_ok=True)
            self.run.write_results(results)
        ended = {"running": "was killed", "failed": f"failed: {results.get('error')}"}
        headline = self.run.headline
        if headline in results.get("val", {}):
            ended["finished"] = f"finished: val {written(results['val'], {headline: self.run.measures[headline]})}"
        say(f"{self.name} {ended.get(results['status'], results['status'])}")

    def returned(self) -> JobReturn:
        """What Hydra's sweepers ask for."""
        value = self.run.monitored(self.config.monitor)
        return JobReturn(overrides=self.words, status=JobStatus.COMPLETED, _return_value=value)


def launch(launcher: "AthanorLauncher", job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """Run the jobs of a sweep that are missing. Gives what all returned; nothing where it has not waited for them."""
    try:
        import submitit
    except ModuleNotFoundError:
        raise UserError(f'launcher={launcher.cluster} needs submitit: pip install -e ".[cluster]"') from None
    jobs = [SweepJob(launcher, number, overrides) for number, overrides in enumerate(job_overrides, first)]
    shared = set.intersection(*(set(job.words) for job in jobs)) if len(jobs) > 1 else set()
    for job in jobs:
        job.name = " ".join([f"job {job.number}", *(word for word in job.words if word not in shared)])
    sweep, process = Sweep(launcher.config.hydra.sweep.dir), JobProcess(launcher.context, launcher.task_function)
    settings, waits = dict(launcher.settings), launcher.config.launcher.get("wait", True)
    is_basic = launcher.config.hydra.sweeper._target_.endswith(".BasicSweeper")
    require(waits or is_basic, "launcher.wait=false: this sweeper chooses jobs by the results of others; leave it out")
    if settings.get("nodes", 1) > 1:  # a process of ours starts those of its own node only
        settings["tasks_per_node"] = settings["gpus_per_node"] or 1
        settings["cpus_per_task"] = max(settings["cpus_per_task"] // settings["tasks_per_node"], 1)
    restarts = {name: settings.pop(name) for name in ("slurm_max_num_timeout",) if name in settings}
    executor = submitit.AutoExecutor(sweep.dir / ".submitit" / "%j", launcher.cluster, **restarts)
    executor.update_parameters(**settings)
    if launcher.cluster == "local":
        run_here(jobs, sweep, partial(executor.submit, process), launcher.config.launcher.jobs)
    else:
        submit_missing(jobs, sweep, lambda missing: executor.map_array(process, [job.config for job in missing]))
        if not waits:
            tell_queue(sweep)
            return []
        collect(jobs, sweep)
    return [job.returned() for job in jobs]


def run_here(jobs: list[SweepJob], sweep: Sweep, start: Any, limit: int) -> None:
    """Run the missing jobs in processes of this machine, `limit` at a time, and wait for all of them.

    start: starts submitit's process of a config and a slot.
    """
    if there := still_queued(sweep):
        raise UserError(f"jobs {', '.join(there)} are in SLURM's queue; first type scancel {' '.join(there.values())}")
    lock, gpus = FileLock(sweep.dir / ".lock"), slots.visible_gpus()
    hold(lock, sweep.dir)
    if sweep.queue:
        sweep.record_queue({})
    free = [slots.Slot(slots.share_of(gpus, number, limit), Path(lock.lock_file)) for number in range(limit)]
    waiting, running = [job for job in jobs if job.is_missing()], []

    def end_those_that_are_done() -> None:
        for entry in [entry for entry in running if entry[1].done()]:
            running.remove(entry)
            job, process, slot = entry
            free.append(slot)
            job.tell_end(process.paths.stderr)

    try:
        while waiting or running:
            while waiting and free:
                job, slot = waiting.pop(0), free.pop(0)
                with without_interrupts():
                    running.append((job, start(job.config, slot), slot))
                say(f"{job.name} begins")
            time.sleep(0.1)
            end_those_that_are_done()
    except KeyboardInterrupt:
        say(f"\n{len(running)} jobs save at the end of their step, and end")
        lock.release()
        while running:
            time.sleep(0.1)
            end_those_that_are_done()
        say(f"go on with python train.py resume={shown(sweep.dir)}")
        raise
    finally:
        lock.release()


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Let processes that start in this time ignore Ctrl-C: submitit's would kill their job a second after it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def submit_missing(jobs: list[SweepJob], sweep: Sweep, submit: Any) -> None:
    """Submit the missing jobs that are not in SLURM's queue yet, and write down under which numbers they are there.

    submit: makes one array of a list of jobs. Raises UserError where SLURM does not say what is in its queue, as a job
    could be in it twice.
    """
    queue = still_queued(sweep)
    missing = [job for job in jobs if str(job.number) not in queue and job.is_missing()]
    with without_interrupts():  # between both a job would be in the queue, and nobody knew it
        submitted = submit(missing) if missing else []
        queue |= {str(job.number): process.job_id for job, process in zip(missing, submitted, strict=True)}
        sweep.record_queue(queue)
    for job in jobs:
        if str(job.number) in queue:
            state = "is submitted" if job in missing else "is in the queue"
            say(f"{job.name} {state} as {queue[str(job.number)]}")


def still_queued(sweep: Sweep) -> dict[str, str]:
    """The part of `sweep.queue` that waits or runs. Raises UserError where SLURM does not say it."""
    queue = sweep.queue
    try:
        queued = slurm.queued(queue.values())
    except OSError as error:
        raise UserError(f"{error}; jobs {', '.join(queue)} may be in the queue still; try again later") from error
    return {number: job_id for number, job_id in queue.items() if job_id in queued}


def collect(jobs: list[SweepJob], sweep: Sweep) -> None:
    """Wait until no job of the sweep is in SLURM's queue any more."""
    by_number, queue, pause = {str(job.number): job for job in jobs}, sweep.queue, 1.0
    try:
        while queue:
            time.sleep(pause)
            pause = min(1.5 * pause, LONGEST_PAUSE)
            queued = set(queue.values())
            with contextlib.suppress(OSError):  # SLURM does not answer now
                queued = slurm.queued(queue.values())
            for number in [number for number, job_id in queue.items() if job_id not in queued]:
                job_id = queue.pop(number)
                if number in by_number:
                    by_number[number].tell_end(sweep.dir / ".submitit" / job_id / f"{job_id}_0_log.err")
            sweep.record_queue(queue)
    except KeyboardInterrupt:
        tell_queue(sweep)
        raise


def tell_queue(sweep: Sweep) -> None:
    if queue := sweep.queue:
        arrays = sorted({job_id.partition("_")[0] for job_id in queue.values()})
        say(f"{len(queue)} jobs are in SLURM's queue (squeue --jobs={','.join(arrays)}; scancel {' '.join(arrays)})")
        say(f"to wait for them and make the table: python train.py resume={shown(sweep.dir)}")


def say(text: str) -> None:
    print(printable(text, keep="\n"), flush=True)
