"""What a test has in the place of SLURM: sbatch, srun, squeue and scontrol, whose jobs run on this machine.

The state is files in $FAKE_SLURM: queue/ has the numbers of the jobs that wait or run, requeue/ of those that are to
be started again. Each job begins at once.
"""

import itertools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

STATE = Path(os.environ.get("FAKE_SLURM", ""))


def install(folder: Path) -> dict[str, str]:
    """Put the commands into folder/bin; gives the variables under which a process finds them."""
    for name in ("bin", "queue", "requeue"):
        (folder / name).mkdir(parents=True)
    for name in ("sbatch", "srun", "squeue", "scontrol"):
        command = folder / "bin" / name
        command.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {name} "$@"\n')
        command.chmod(0o755)
    return {"FAKE_SLURM": str(folder), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}


def sbatch(script: str) -> None:
    text = Path(script).read_text()
    options = dict(re.findall(r"#SBATCH --([\w-]+)=(.*)", text))
    number = 100 + len(list(STATE.glob("*.sh")))
    (STATE / f"{number}.sh").write_text(text)
    last = re.fullmatch(r"0-(\d+)%\d+", options["array"])[1] if "array" in options else None
    jobs = [f"{number}_{task}" for task in range(int(last) + 1)] if last else [str(number)]
    for job in jobs:
        (STATE / "queue" / job).touch()
        words = [sys.executable, __file__, "run", str(number), job]
        words += [options.get("nodes", "1"), options.get("ntasks-per-node", "1")]
        subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(f"Submitted batch job {number}")


def run(number: str, job: str, nodes: str, tasks_per_node: str) -> None:
    """Run a job until it is not started again."""
    environment = {"SLURM_JOB_ID": job.replace("_", "0"), "SLURM_JOB_NAME": "train", "SLURM_NODELIST": "localhost"}
    environment |= {"SLURM_NNODES": nodes, "SLURM_JOB_NUM_NODES": nodes, "SLURM_NTASKS_PER_NODE": tasks_per_node}
    environment |= {"SLURM_NTASKS": str(int(nodes) * int(tasks_per_node)), "SLURM_JOB_NODELIST": "localhost"}
    if "_" in job:
        environment |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": job.partition("_")[2]}
    for count in itertools.count():
        environment["SLURM_RESTART_COUNT"] = str(count)
        subprocess.run(["bash", str(STATE / f"{number}.sh")], env=os.environ | environment)
        if not (STATE / "requeue" / job).exists():
            break
        (STATE / "requeue" / job).unlink()
    (STATE / "queue" / job).unlink()


def srun(*words: str) -> None:
    """Start the processes of all nodes; --output and --error are files for each."""
    options, rest = {}, list(words)
    while rest[0].startswith("--"):
        name = rest.pop(0)
        options[name] = "" if name == "--unbuffered" else rest.pop(0)
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID", ""), os.environ.get("SLURM_ARRAY_TASK_ID", "")
    number, on_node = int(os.environ["SLURM_NTASKS"]), int(os.environ["SLURM_NTASKS_PER_NODE"])
    processes = []
    for rank in range(number):
        environment = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank % on_node)}
        environment |= {"SLURM_NODEID": str(rank // on_node), "SLURM_STEP_NUM_TASKS": str(number)}
        files = []
        for name in ("--output", "--error"):
            path = options[name].replace("%A", array).replace("%a", task).replace("%t", str(rank))
            path = Path(path.replace("%j", os.environ["SLURM_JOB_ID"]))
            path.parent.mkdir(parents=True, exist_ok=True)
            files.append(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY))
        processes.append(subprocess.Popen(rest, env=os.environ | environment, stdout=files[0], stderr=files[1]))
    codes = [process.wait() for process in processes]
    sys.exit(max(map(abs, codes)))


def squeue(*words: str) -> None:
    asked = next(word for word in words if word.startswith("--jobs=")).removeprefix("--jobs=").split(",")
    jobs = [path.name for path in (STATE / "queue").iterdir() if path.name.partition("_")[0] in asked]
    if not jobs:
        sys.exit("slurm_load_jobs error: Invalid job id specified")
    print("\n".join(jobs))


def scontrol(verb: str, job: str) -> None:
    assert verb == "requeue"
    (STATE / "requeue" / job).touch()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    globals()[sys.argv[1]](*sys.argv[2:])
