"""What SLURM says about this process in its environment, and what to say to it."""

import logging
import os
import subprocess

log = logging.getLogger(__name__)


def job() -> str | None:
    """The number under which SLURM runs this process; a task of an array has one of its own."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if array else os.environ.get("SLURM_JOB_ID")


def is_requeued() -> bool:
    return job() is not None and os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def requeue() -> None:
    """Ask for this job again, from the first of its processes: a time limit is no preemption, which does so itself."""
    if job() is None or os.environ.get("SLURM_PROCID", "0") != "0":
        return
    try:
        subprocess.run(["scontrol", "requeue", job()], check=True, capture_output=True, timeout=60)
        log.info("SLURM will start job %s again", job())
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("warning: scontrol requeue %s: %s; type it yourself", job(), error)
