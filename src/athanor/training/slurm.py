"""What SLURM says about this process in environment variables and of its queue, and the request to start one again."""

import logging
import os
import subprocess
from collections.abc import Iterable

log = logging.getLogger(__name__)


def slurm_job_id() -> str | None:
    """The number of the SLURM job of this process, `<array>_<task>` for a task of a job array; None outside SLURM."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if array else os.environ.get("SLURM_JOB_ID")


def is_requeued() -> bool:
    return slurm_job_id() is not None and os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def requeue() -> None:
    """Let the first process of a job ask SLURM to start it again. SLURM does so by itself when it preempts a job, but
    not when the time limit is reached.
    """
    number = slurm_job_id()
    if number is None or os.environ.get("SLURM_PROCID", "0") != "0":
        return
    try:
        subprocess.run(["scontrol", "requeue", number], check=True, capture_output=True, timeout=60)
        log.info("SLURM will start job %s again", number)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("warning: scontrol requeue %s: %s; type it yourself", number, error)


def queued(job_ids: Iterable[str]) -> set[str]:
    """Those of these jobs, `<job>` or `<array>_<task>`, that wait or run. Raises OSError where SLURM does not answer.

    squeue knows it on each cluster; sacct, which submitit asks, needs a database, and takes a preempted job that is not
    started again for one that is.
    """
    job_ids = set(job_ids)
    if not job_ids:
        return set()
    jobs = ",".join(sorted({job_id.partition("_")[0] for job_id in job_ids}))
    words = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={jobs}"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{' '.join(words)} does not answer") from error
    if done.returncode and "Invalid job id" not in done.stderr:  # which it says of a job that has ended long ago
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")
    return job_ids & set(done.stdout.split())
