"""Kill training runs at random moments, tear their checkpoints, resume them, and compare them with one left in peace.

    python scripts/torture.py [--kills 50] [--torn 20] [--only plateau,ddp] [--seed 0]

A run has to end with the same weights, optimizer, metrics and logged values to the last bit, however often it was
killed. Prints a table, and exits with 1 if one did not. Takes some 10 s a kill.
"""

import argparse
import csv
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--torn", type=int, default=20)
    parser.add_argument("--only", help="some of: " + ", ".join(RUNS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signal", default="SIGKILL", help="SIGTERM, SIGINT, SIGUSR1: saves before it ends")
    arguments = parser.parse_args()
    chosen = {name: words for name, words in RUNS.items() if any(o in name for o in (arguments.only or "").split(","))}
    random.seed(arguments.seed)
    failures = 0
    print(f"{'run':26} {'kills':>5} {'torn':>5} {'identical':>9}  moments", flush=True)
    for i, (name, words) in enumerate(chosen.items()):
        with tempfile.TemporaryDirectory() as folder:
            share = [count // len(chosen) + (i < count % len(chosen)) for count in (arguments.kills, arguments.torn)]
            tortured = Torture(Path(folder), words.split(), arguments.signal)
            row = tortured.run(*share)
            failures += row["ended"] - row["identical"]
            print(
                f"{name:26} {row['kills']:5} {row['torn']:5} {row['identical']:4}/{row['ended']:<4}  {row['moments']}",
                flush=True,
            )
            for line in tortured.differences:
                print(f"  {line}", flush=True)
    sys.exit(1 if failures else 0)


class Torture:
    """One configuration: a run in peace, and then others, killed again and again until they have finished."""

    def __init__(self, folder: Path, words: list[str], kill: str) -> None:
        self.folder, self.words, self.kill = folder, words, getattr(signal, kill)
        self.differences: list[str] = []
        self.moments: dict[str, int] = {}
        begun = time.monotonic()
        if code := self.start("peace").wait():
            sys.exit(f"the run in peace ended with code {code}: {' '.join(words)}")
        self.seconds = max(time.monotonic() - begun, seconds_since_config(folder / "peace"))
        self.fit_seconds = seconds_since_config(folder / "peace")
        self.expected = outcome(folder / "peace")

    def run(self, kills: int, torn: int) -> dict:
        done = ended = identical = tears = 0
        while done < kills or tears < torn:
            name = f"run{ended}"
            while not finished(self.folder / name):
                if done < kills and random.random() < 0.7:
                    done += self.killed(name)
                elif tears < torn and self.killed(name):
                    tears += self.torn(name)
                elif code := self.start(name).wait():
                    self.differences.append(f"{name} ended with code {code}: {self.said(name)}")
                    break
            ended += 1
            identical += self.compare(name)
            shutil.rmtree(self.folder / name)
        moments = ", ".join(f"{count} {moment}" for moment, count in sorted(self.moments.items()))
        return {"kills": done, "torn": tears, "ended": ended, "identical": identical, "moments": moments}

    def start(self, name: str) -> subprocess.Popen:
        folder = self.folder / name
        words = [f"resume={folder}"]
        if not (folder / "config.yaml").is_file():  # killed before it was a run
            shutil.rmtree(folder, ignore_errors=True)
            words = [*self.words, f"hydra.run.dir={folder}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with open(self.folder / f"{name}.out", "a") as out:
            command = [sys.executable, str(TRAIN), *words]
            return subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=out, stderr=out, start_new_session=True
            )

    def killed(self, name: str) -> int:
        """Start it or go on with it, and kill it at a random moment; 0 if it was faster."""
        folder = self.folder / name
        started, process = time.time(), self.start(name)
        patient = random.random() < 0.9  # most of a process is its imports
        while patient and process.poll() is None and not begun(folder, started):
            time.sleep(0.02)
        time.sleep(random.uniform(0, self.fit_seconds))
        if process.poll() is None:
            moment = describe(folder)
            (os.killpg if self.kill == signal.SIGKILL else os.kill)(process.pid, self.kill)
            process.wait()
            self.moments[moment] = self.moments.get(moment, 0) + 1
            return 1
        return 0

    def torn(self, name: str) -> int:
        path = self.folder / name / "checkpoints" / "last.ckpt"
        if not path.is_file() or finished(self.folder / name):
            return 0
        data = bytearray(path.read_bytes())
        path.unlink()  # best.ckpt may be the same file
        if random.random() < 0.5:
            data = data[: random.randrange(len(data))]
        else:
            for _ in range(20):
                data[random.randrange(len(data))] ^= 255
        path.write_bytes(data)
        return 1

    def compare(self, name: str) -> bool:
        if not finished(self.folder / name):
            return False
        found = outcome(self.folder / name)
        different = [key for key in self.expected if not equal(self.expected[key], found[key])]
        if "Traceback" in self.said(name, lines=10**6):
            different.append("traceback")
        self.differences += [f"{name}: {key} differs" for key in different]
        return not different

    def said(self, name: str, lines: int = 3) -> str:
        return " | ".join((self.folder / f"{name}.out").read_text().splitlines()[-lines:])


def begun(folder: Path, started: float) -> bool:
    """Its fit has: there is a file of events of its own."""
    return any(path.stat().st_ctime >= started for path in folder.glob("events*"))


def describe(folder: Path) -> str:
    if not list(folder.glob("events*")):
        return "before fit"
    if list(folder.glob("checkpoints/.*.part")):
        return "while writing"
    return "with checkpoint" if (folder / "checkpoints" / "last.ckpt").is_file() else "without checkpoint"


def finished(folder: Path) -> bool:
    path = folder / "results.json"
    return path.is_file() and json.loads(path.read_text())["status"] == "finished"


def seconds_since_config(folder: Path) -> float:
    return json.loads((folder / "results.json").read_text())["fit_seconds"] + 0.5


def outcome(folder: Path) -> dict:
    """All that has to be equal to the bit."""
    import torch

    found = {}
    for name in "last", "best":
        contents = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        found |= {f"{name}.ckpt {key}": contents[key] for key in ("state_dict", "optimizer_states", "lr_schedulers")}
        found[f"{name}.ckpt step"] = contents["epoch"], contents["global_step"]
    results = json.loads((folder / "results.json").read_text())
    names = ("train", "val", "test", "checkpoint_epoch", "epochs", "steps", "data", "overrides")
    found["results"] = {name: results.get(name) for name in names[:-1]}
    with open(folder / "metrics.csv") as file:
        found["metrics.csv"] = sorted(tuple(row.values()) for row in csv.DictReader(file))
    found["TensorBoard"] = events(folder)
    return found


def events(folder: Path) -> dict:
    """What TensorBoard shows: for each tag its steps and values."""
    from tensorboard.backend.event_processing.event_accumulator import SCALARS
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it announces what it purges

    board = EventMultiplexer(size_guidance={SCALARS: 0}).AddRunsFromDirectory(str(folder)).Reload()
    tags = board.Runs()["."]["scalars"]
    return {tag: [(event.step, event.value) for event in board.Scalars(".", tag)] for tag in tags}


def equal(a: object, b: object) -> bool:
    import torch

    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


if __name__ == "__main__":
    main()
