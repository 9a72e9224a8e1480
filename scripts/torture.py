"""Kill training runs, damage their checkpoints, resume and compare them: python scripts/torture.py [--kills 50]

    python scripts/torture.py [--kills 50] [--torn 20] [--places new] [--only plateau,ddp] [--seed 0]

--kills and --torn do it at random moments. --places does it before each operation on the run's files, and after each
that opens a new one, at its first and at its last time: `all` those that an undisturbed run makes, or a resumed one, or
with `new` each in the first of the runs that makes it. A run has to end with the same weights, optimizer, metrics,
logged values and files to the last bit, however often it was killed. Prints a table, and exits with 1 if one did not.
Takes some 5 s a kill.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kills import process
from kills.outcome import differences, outcome

from athanor.engine.runs.run import Run

SAVING = "os.rename checkpoints/last.ckpt"  # of a place
OFTEN = "callbacks.checkpoints.every_minutes=1e-9"  # at each step
SMALL = """data.limit=200 data.batch_size=32 compute.threads=1 trainer=cpu trainer.deterministic=true
    trainer.log_every_n_steps=2"""  # 5 steps an epoch; on a GPU, only deterministic algorithms give equal runs
MLP = f"{SMALL} model=mlp model.widths=[16] trainer.max_epochs=4"
CNN = f"{SMALL} model=cnn model.widths=[4,4] model.convs_per_stage=1 model.fc_widths=[] trainer.max_epochs=3"
EDITS = {0: "lr: 0.02\n", 7: "momentum: 0.5\nvalidate: true\n", 11: "weight_decay: 1e-3\ncheckpoint: true\n"}
EDITS[17] = "stop: true\n"
RUNS: dict[str, str] = {
    "plain": f"{MLP} model.dropout=0.3 optim=adam",
    "ensemble, top k": f"{MLP} trainer.max_epochs=6 callbacks=ensemble callbacks.checkpoints.top_k=3",
    "last of every step": f"{MLP} callbacks.checkpoints.top_k=2 callbacks.checkpoints.keep=last {OFTEN}",
    "snapshots of cycles": f"""{MLP} trainer.max_epochs=6 scheduler=cosine_restarts scheduler.cycles=3
        callbacks=ensemble callbacks.checkpoints.keep=cycles callbacks.checkpoints.top_k=5""",
    "ema": f"{MLP} callbacks=ema model.norm=batch {OFTEN}",
    "swa": f"{MLP} callbacks=swa callbacks.swa.start=0.5 model.norm=batch",
    "lr_range": f"{MLP} callbacks=lr_range callbacks.lr_range.steps=20 callbacks.lr_range.sweeps=1",
    "muon, accumulating": f"""{MLP} model.widths=[16,16] optim=muon scheduler=one_cycle
        trainer.accumulate_grad_batches=2 {OFTEN}""",
    "L-BFGS": f"{MLP} optim=lbfgs data.batch_size=full {OFTEN}",
    "max_time": f"{MLP} trainer.max_epochs=-1 +trainer.max_time=00:00:00:13",
    "control.yaml": f"{MLP} optim=momentum",
    "batch norm, augmented": f"""{CNN} data.augment.crop=1 data.augment.cutout=2 data.augment.flip=true
        optim=nesterov scheduler=cosine {OFTEN}""",
    "plateau, stops early": f"""{MLP} optim=sgd optim.lr=0.3 scheduler=plateau scheduler.patience=1
        trainer.max_epochs=30 callbacks.early_stopping.patience=3 callbacks.checkpoints.top_k=2""",
    "steps, rare validation": f"""{MLP} optim=rmsprop scheduler=step trainer.max_epochs=-1 trainer.max_steps=23
        trainer.check_val_every_n_epoch=2 {OFTEN}""",
    "validates often": f"{MLP} optim=adamw scheduler=cosine +trainer.val_check_interval=0.4 {OFTEN}",
    "distillation": "--distill",
    "two processes": f"""{MLP} model.dropout=0.2 data.augment.crop=1 trainer=ddp trainer.accelerator=cpu
        trainer.devices=2 trainer.deterministic=true trainer.log_every_n_steps=2 {OFTEN}""",
}
SIMULATED: dict[str, dict[str, Any]] = {"control.yaml": {"edits": EDITS}, "max_time": {"clock": True}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="in all, shared by the runs (default 50)")
    parser.add_argument("--torn", type=int, default=20, help="checkpoints to damage, in all (default 20)")
    parser.add_argument("--places", choices=("none", "new", "all"), default="none", help="to kill at (default none)")
    parser.add_argument("--only", default="", help="parts of names, with commas between; all: " + "; ".join(RUNS))
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--signal", default="SIGKILL", help="SIGTERM, SIGINT, SIGUSR1: the run saves before it ends")
    arguments = parser.parse_args()
    names = [name for name in RUNS if any(part in name for part in arguments.only.split(","))]
    random.seed(arguments.seed)
    failures, tried = 0, set()
    print(f"{'run':24} {'places':>6} {'kills':>5} {'torn':>5} {'identical':>9} {'minutes':>7}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        forks = process.context(Path(folder))
        for i, name in enumerate(names):
            started = time.monotonic()
            shares = [count // len(names) + (i < count % len(names)) for count in (arguments.kills, arguments.torn)]
            torture = Torture(name, Path(folder, str(i)), forks, getattr(signal, arguments.signal))
            torture.at_random(*shares)
            if arguments.places != "none":
                torture.at_places(tried if arguments.places == "new" else set())
            failures += torture.ended - torture.identical
            minutes = (time.monotonic() - started) / 60
            print(f"{name:24} {torture} {minutes:7.1f}", *torture.differences, sep="\n  ", flush=True)
    sys.exit(1 if failures else 0)


class Torture:
    """One configuration: an undisturbed run, and then others, killed again and again until they have finished."""

    def __init__(self, name: str, folder: Path, forks: Any, kill_signal: signal.Signals) -> None:
        self.folder, self.forks, self.signal = folder, forks, kill_signal
        self.simulated = SIMULATED.get(name, {})
        folder.mkdir()

        # counts
        self.places = self.kills = self.torn = self.ended = self.identical = 0
        self.differences: list[str] = []

        # what has to come out
        self.script, self.words = "train.py", RUNS[name].split()
        if "--distill" in self.words:
            for seed in (1, 2):
                self.words = [*MLP.split(), f"seed={seed}"]
                self.undisturbed(f"teacher{seed}")
            self.script, self.words = "scripts/ensemble.py", [f"{folder}/teacher1", f"{folder}/teacher2", "--distill"]
        before = time.time()
        undisturbed = self.undisturbed("undisturbed")
        self.seconds = time.time() - before
        self.expected = outcome(undisturbed, self.said("undisturbed"))

    def __str__(self) -> str:
        return f"{self.places:6} {self.kills:5} {self.torn:5} {self.identical:4}/{self.ended:<4}"

    def undisturbed(self, name: str) -> Path:
        if self.ended_with(self.start(name)):
            sys.exit(f"the undisturbed run ended with an error: {' '.join(self.words)}\n{self.said(name)}")
        return self.folder / name

    # at random

    def at_random(self, kills: int, torn: int) -> None:
        """Run the configuration again and again until so many kills and so many damaged checkpoints are reached."""
        wanted = self.kills + kills, self.torn + torn
        while self.kills < wanted[0] or self.torn < wanted[1]:
            name = f"run{self.ended}"
            while not self.has_finished(name):
                if self.kills < wanted[0] and random.random() < 0.7:
                    self.kills += self.kill(name)
                elif self.torn < wanted[1]:
                    self.torn += self.kill(name) and self.damage_checkpoint(name)
                elif self.ended_with(self.start(name)):
                    break
            self.compare(name)

    def kill(self, name: str) -> bool:
        """Start or resume the run and kill it at a random moment; False where it ended before."""
        run = self.start(name)
        run.join(random.uniform(0, self.seconds))
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.kill(run.pid, self.signal)
        return self.ended_with(run) != 0

    def damage_checkpoint(self, name: str) -> bool:
        """Cut last.ckpt short or flip some of its bytes; False where it is the only checkpoint, or no longer needed."""
        checkpoints = Run(self.folder / name).checkpoints
        if len(checkpoints) < 2 or checkpoints[0].name != "last.ckpt" or self.has_finished(name):
            return False
        path = checkpoints[0]
        data = bytearray(path.read_bytes())
        if random.random() < 0.5 or len({other.stat().st_ino for other in checkpoints}) < 2:
            path.unlink()  # else best.ckpt may be the same file, and is damaged too
        if random.random() < 0.5:
            data = data[: random.randrange(len(data))]
        else:
            for _ in range(20):
                data[random.randrange(len(data))] ^= 255
        path.write_bytes(data)
        return True

    # at places

    def at_places(self, tried: set[tuple]) -> None:
        """Kill runs at each place of the undisturbed one, and at those to which only a resumed run comes.

        tried: what need not be tried again; it grows.
        """
        known = self.places_of("undisturbed")
        plans = [[kill] for kill in kills_at(known)]
        while plans:
            plan = plans.pop(0)
            mark = plan[-1]["place"], plan[-1]["nth"] > 1, plan[-1]["opened"]
            if mark in tried:
                continue
            tried.add(mark)
            self.places += 1
            name = f"run{self.ended}"
            for kill in plan:
                self.kills += self.ended_with(self.start(name, kill)) != 0
            if not self.has_finished(name):
                self.ended_with(self.start(name))
                places = self.places_of(name)
                if len(plan) == 1:
                    plans += [[*plan, kill] for kill in kills_at({key: places[key] for key in places - known.keys()})]
                    known |= places
            self.compare(name, plan)

    def places_of(self, name: str) -> Counter[tuple[str, bool]]:
        """How often a run, since it was last started, came to each place, and whether a file may be new there."""
        lines = (self.folder / f"{name}.trace").read_text().splitlines()
        return Counter(tuple(json.loads(line)) for line in lines)

    # runs

    def start(self, name: str, kill: dict[str, Any] | None = None, **simulated: Any) -> Any:
        """Start the run of this name, or resume it."""
        folder = self.folder / name
        script, typed = "train.py", [f"resume={folder}"]
        if not (folder / "config.yaml").is_file():  # it was killed before it was a run
            shutil.rmtree(folder, ignore_errors=True)
            place = ["--output", str(folder)] if "--distill" in self.words else [f"hydra.run.dir={folder}"]
            script, typed = self.script, [*self.words, *place]
        trace = self.folder / f"{name}.trace"
        trace.unlink(missing_ok=True)
        plan = {"folder": str(folder), "trace": str(trace), "kill": kill}
        run = self.forks.Process(
            target=process.run,
            args=(script, typed, self.folder, self.folder / f"{name}.out", plan, self.simulated | simulated),
        )
        run.start()
        return run

    def ended_with(self, run: Any) -> int:
        run.join()
        return run.exitcode

    def compare(self, name: str, plan: Sequence[dict[str, Any]] = ()) -> None:
        """Count the run, and note what differs from the undisturbed one. plan: where it was killed; none: at random."""
        self.ended += 1
        said = self.said(name)
        if self.has_finished(name):
            different = differences(self.expected, outcome(self.folder / name, said))
        else:
            different = [" | ".join(said.splitlines()[-3:])]
        self.identical += not different
        if different:
            killed = " | ".join(f"{kill['place']} ({kill['nth']})" for kill in plan) or "at random"
            self.differences.append(f"{name}: {', '.join(different)}; killed {killed}; {self.first_difference(plan)}")
        shutil.rmtree(self.folder / name)

    def first_difference(self, plan: Sequence[dict[str, Any]]) -> str:
        """The first operation that differs from the undisturbed run's where a run is killed like this, and resumed.

        A moment does not come again, so of one that was killed at random the place is a saving in its middle.
        """
        savings = [(place, times) for (place, _), times in self.places_of("undisturbed").items() if SAVING in place]
        plan = plan or [{"place": place, "nth": (times + 1) // 2, "opened": False} for place, times in savings[:1]]
        steps: list[dict[int, list]] = []
        for name, kills in ("watched", ()), ("killed", plan):
            file = self.folder / f"{name}.operations"
            for kill in (*kills, None):
                self.ended_with(self.start(name, kill, operations=str(file)))
            shutil.rmtree(self.folder / name)
            lines = file.read_text().splitlines() if file.is_file() else ()  # none of processes that a run starts
            steps.append({number: operations or [] for number, operations in map(json.loads, lines)})
            file.unlink(missing_ok=True)
        for number in sorted(steps[0].keys() & steps[1].keys()):
            for first, second in zip(steps[0][number], steps[1][number], strict=False):
                if first != second:
                    return f"differs first in step {number}, {first[0]}"
        return "no operation of the main process differs in one that is killed there again"

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.out").read_text()

    def has_finished(self, name: str) -> bool:
        return Run(self.folder / name).results.get("status") == "finished"


def kills_at(places: dict[tuple[str, bool], int]) -> list[dict[str, Any]]:
    """Before the first and the last time of each place, and after the first opening of a file that may be new."""
    kills = []
    for (place, may_be_new), times in places.items():
        kills += [{"place": place, "nth": nth, "opened": False} for nth in sorted({1, times})]
        kills += [{"place": place, "nth": 1, "opened": True}] if may_be_new else []
    return kills


if __name__ == "__main__":
    main()
