"""Kill training runs at random moments, damage their checkpoints, resume them, and compare them with undisturbed runs.

    python scripts/torture.py [--kills 50] [--torn 20] [--only plateau,ddp] [--seed 0]

A run has to end with the same weights, optimizer, metrics and logged values to the last bit, however often it was
killed. Prints a table, and exits with 1 if one did not. Takes some 10 s a kill.
"""

import argparse
import csv
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from athanor.engine.runs.run import Run

TRAIN = Path(__file__).resolve().parents[1] / "train.py"
OFTEN = "callbacks.checkpoints.every_minutes=0.003"
RUNS = {
    "dropout, batch norm": "model=mlp model.dropout=0.3 optim=adam trainer.max_epochs=40",
    "augmented, accumulating": f"""model=cnn data.augment.crop=1 data.augment.cutout=2 data.augment.flip=true
        optim=nesterov scheduler=cosine trainer.accumulate_grad_batches=3 trainer.max_epochs=5 {OFTEN}""",
    "plateau, stops early": """model=mlp optim=sgd optim.lr=0.3 scheduler=plateau scheduler.patience=1
        trainer.max_epochs=60 callbacks.early_stopping.patience=6 callbacks.checkpoints.top_k=3""",
    "muon, within epochs": f"model=cnn optim=muon scheduler=one_cycle trainer.max_epochs=4 data.batch_size=32 {OFTEN}",
    "steps, rare validation": f"""model=mlp optim=rmsprop scheduler=step trainer.max_epochs=-1 trainer.max_steps=700
        trainer.check_val_every_n_epoch=2 {OFTEN}""",
    "resnet, validates often": f"""model=resnet model.depth=8 optim=adamw scheduler=cosine trainer.max_epochs=3
        +trainer.val_check_interval=0.4 {OFTEN}""",
    "two processes": f"""model=mlp model.dropout=0.2 optim=momentum trainer=ddp trainer.accelerator=cpu
        trainer.devices=2 data.augment.crop=1 trainer.max_epochs=15 {OFTEN}""",
}
# what is compared of a checkpoint and of results.json
CHECKPOINT = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step")
RESULTS = ("train", "val", "test", "checkpoint_epoch", "epochs", "steps", "data")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="in all, shared by the runs (default 50)")
    parser.add_argument("--torn", type=int, default=20, help="checkpoints to damage, in all (default 20)")
    parser.add_argument("--only", default="", help="parts of names, with commas between; all: " + "; ".join(RUNS))
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--signal", default="SIGKILL", help="SIGTERM, SIGINT, SIGUSR1: the run saves before it ends")
    arguments = parser.parse_args()
    runs = {name: words for name, words in RUNS.items() if any(part in name for part in arguments.only.split(","))}
    random.seed(arguments.seed)
    os.environ["OMP_NUM_THREADS"] = "1"  # for the runs
    failures = 0
    print(f"{'run':26} {'kills':>5} {'torn':>5} {'identical':>9}  moments", flush=True)
    for i, (name, words) in enumerate(runs.items()):
        kills, torn = (count // len(runs) + (i < count % len(runs)) for count in (arguments.kills, arguments.torn))
        with tempfile.TemporaryDirectory() as folder:
            torture = Torture(Path(folder), words.split(), getattr(signal, arguments.signal))
            torture.run(kills, torn)
        failures += torture.ended - torture.identical
        print(f"{name:26} {torture}", *torture.differences, sep="\n  ", flush=True)
    sys.exit(1 if failures else 0)


class Torture:
    """One configuration: an undisturbed run, and then others, killed again and again until they have finished."""

    def __init__(self, folder: Path, words: list[str], kill_signal: signal.Signals) -> None:
        self.folder = folder
        self.words = words
        self.signal = kill_signal

        # counts
        self.kills = self.torn = self.ended = self.identical = 0
        self.moments: Counter[str] = Counter()
        self.differences: list[str] = []

        # what has to come out
        if code := self.start("undisturbed").wait():
            sys.exit(f"the undisturbed run ended with code {code}: {' '.join(words)}")
        self.expected = self.outcome("undisturbed")
        self.fit_seconds = Run(folder / "undisturbed").results["fit_seconds"] + 0.5

    def __str__(self) -> str:
        moments = ", ".join(f"{count} {moment}" for moment, count in sorted(self.moments.items()))
        return f"{self.kills:5} {self.torn:5} {self.identical:4}/{self.ended:<4}  {moments}"

    def run(self, kills: int, torn: int) -> None:
        """Run the configuration again and again until so many kills and so many damaged checkpoints are reached."""
        while self.kills < kills or self.torn < torn:
            name = f"run{self.ended}"
            while not self.has_finished(name):
                if self.kills < kills and random.random() < 0.7:
                    self.kills += self.kill(name)
                elif self.torn < torn and self.kill(name):
                    self.torn += self.damage_checkpoint(name)
                elif code := self.start(name).wait():
                    lines = (self.folder / f"{name}.out").read_text().splitlines()[-3:]
                    self.differences.append(f"{name} ended with code {code}: {' | '.join(lines)}")
                    break
            self.ended += 1
            self.identical += self.is_identical(name)
            shutil.rmtree(self.folder / name)

    def start(self, name: str) -> subprocess.Popen:
        """Start the run of this name, or resume it."""
        folder = self.folder / name
        words = [f"resume={folder}"]
        if not (folder / "config.yaml").is_file():  # it was killed before it was a run
            shutil.rmtree(folder, ignore_errors=True)
            # on a GPU, runs can be equal with deterministic algorithms only
            words = [*self.words, "trainer.deterministic=true", f"hydra.run.dir={folder}"]
        command = [sys.executable, str(TRAIN), *words]
        with open(self.folder / f"{name}.out", "a") as out:
            return subprocess.Popen(command, cwd=self.folder, stdout=out, stderr=out, start_new_session=True)

    def kill(self, name: str) -> bool:
        """Start or resume the run and kill it at a random moment; False where it ended before."""
        folder = self.folder / name
        started, process = time.time(), self.start(name)
        # most of a process's time is imports: nine times of ten wait until its fit writes events of its own
        if random.random() < 0.9:
            while process.poll() is None and not any(p.stat().st_ctime >= started for p in folder.glob("events*")):
                time.sleep(0.02)
        time.sleep(random.uniform(0, self.fit_seconds))
        if process.poll() is not None:
            return False
        self.moments[moment_of(folder)] += 1
        (os.killpg if self.signal == signal.SIGKILL else os.kill)(process.pid, self.signal)
        process.wait()
        return True

    def damage_checkpoint(self, name: str) -> bool:
        """Cut last.ckpt short or flip some of its bytes; False where there is none, or the run has finished."""
        path = self.folder / name / "checkpoints" / "last.ckpt"
        if not path.is_file() or self.has_finished(name):
            return False
        data = bytearray(path.read_bytes())
        path.unlink()  # best.ckpt may be a hard link to the same file, which must stay as it is
        if random.random() < 0.5:
            data = data[: random.randrange(len(data))]
        else:
            for _ in range(20):
                data[random.randrange(len(data))] ^= 255
        path.write_bytes(data)
        return True

    def is_identical(self, name: str) -> bool:
        """Whether the run has finished with the expected outcome and without a traceback; notes what differs."""
        if not self.has_finished(name):
            return False
        got = self.outcome(name)
        different = [key for key, value in self.expected.items() if not equal(value, got[key])]
        self.differences += [f"{name}: {key} differs" for key in different]
        return not different

    def outcome(self, name: str) -> dict:
        """Everything of a run that has to be equal to the bit."""
        folder = self.folder / name
        values = {"traceback": "Traceback" in (self.folder / f"{name}.out").read_text()}
        for checkpoint in "last.ckpt", "best.ckpt":
            contents = torch.load(folder / "checkpoints" / checkpoint, weights_only=True)
            values |= {f"{checkpoint} {key}": contents[key] for key in CHECKPOINT}
        results = Run(folder).results
        values |= {f"results.json {key}": results.get(key) for key in RESULTS}
        with open(folder / "metrics.csv") as file:
            values["metrics.csv"] = sorted(tuple(row.values()) for row in csv.DictReader(file))
        values["TensorBoard"] = tensorboard_scalars(folder)
        return values

    def has_finished(self, name: str) -> bool:
        return Run(self.folder / name).results.get("status") == "finished"


def moment_of(folder: Path) -> str:
    """How far a run has come, for the table."""
    if not list(folder.glob("events*")):
        return "before fit"
    if list(folder.glob("checkpoints/.*.part")):
        return "while writing"
    return "with checkpoint" if (folder / "checkpoints" / "last.ckpt").is_file() else "without checkpoint"


def tensorboard_scalars(folder: Path) -> dict[str, list]:
    """What TensorBoard shows: for each tag its steps and values."""
    from tensorboard.backend.event_processing.event_accumulator import SCALARS
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it announces the events that it drops
    board = EventMultiplexer(size_guidance={SCALARS: 0}).AddRunsFromDirectory(str(folder)).Reload()
    tags = board.Runs()["."]["scalars"]
    return {tag: [(event.step, event.value) for event in board.Scalars(".", tag)] for tag in tags}


def equal(a: object, b: object) -> bool:
    """Whether two values of a checkpoint, tensors in nested containers, are equal to the bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


if __name__ == "__main__":
    main()
