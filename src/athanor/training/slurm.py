"""What SLURM says about this process in environment variables, and the request to start its job again."""

import logging
import os
import subprocess

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
