"""Starts train.py in processes that are forked from one that has imported it: in 1 s instead of 7."""

import json
import multiprocessing
import os
import runpy
import sys
from pathlib import Path
from typing import Any

from kills import hook

REPO = Path(__file__).resolve().parents[2]
IMPORTED = ["athanor.engine.app.job", "athanor.engine.config.assemble", "athanor.callbacks.lr_range"]
IMPORTED += [
    "athanor.callbacks.ensemble",
    "athanor.engine.runs.ensembles.distill",
    "torch.utils.tensorboard",
]


def context(folder: Path) -> Any:
    """Where processes are forked. folder: for a file that the processes of a run load by themselves, with the hook."""
    os.environ["OMP_NUM_THREADS"] = "1"
    (folder / "sitecustomize.py").write_text(f"import runpy\nrunpy.run_path({hook.__file__!r})\n")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(IMPORTED)
    first = forks.Process(target=os.getpid)  # so that no run waits for the imports
    first.start()
    first.join()
    return forks


def run(script: str, words: list[str], cwd: Path, out: Path, plan: dict[str, Any], simulated: dict[str, Any]) -> None:
    """Be the process of a script: its words, its output, its own session, and a watch on its files."""
    os.setsid()
    os.chdir(cwd)
    with open(out, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from athanor.engine.config import options

    options.CONFIGS = REPO / "configs"
    if simulated.get("edits"):
        hook.simulate_person(simulated["edits"], plan["folder"])
    if simulated.get("clock"):
        hook.simulate_clock()
    if simulated.get("operations"):
        hook.record_operations(simulated["operations"])
    os.environ[hook.PLAN] = json.dumps(plan)
    hook.watch(plan)
    sys.argv = [str(REPO / script), *words]
    sys.path.insert(0, str((REPO / script).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")
