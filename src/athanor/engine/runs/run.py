"""A run is a directory with its config, checkpoints and results."""

import csv
import json
import logging
import math
import os
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from athanor.base.error_place import told
from athanor.base.errors import UserError, first_line, require
from athanor.base.files import refuse_links, write_atomically
from athanor.engine.config import records, schema, trust
from athanor.engine.config.settings import REMARKS
from athanor.engine.runs import provenance
from athanor.tasks.measure import Measure, stage_and_name

if TYPE_CHECKING:
    import lightning.pytorch as L
    import numpy as np
    from torch import Tensor

    from athanor.tasks.classification import Classification

log = logging.getLogger(__name__)


class Run:
    """A run's directory. `Run(folder).task()` is what it has trained, for notebooks."""

    def __init__(self, directory: str | Path) -> None:
        self.dir = Path(directory)

    @classmethod
    def at(cls, path: str | Path) -> "Run":
        """The run of a directory or of a checkpoint in it, checked to be one."""
        path = Path(path)
        directory = path.parent.parent if path.suffix == ".ckpt" else path
        if not (directory / "config.yaml").is_file():
            raise UserError(f"{path} is not a run: there is no {directory / 'config.yaml'}")
        refuse_links(directory)
        return cls(directory)

    @classmethod
    def find_unfinished(cls, outputs: Path = Path("outputs")) -> "Run":
        """The newest run below a folder that has not finished, for resume=last.

        A config.yaml without results.json is another tool's, as those of wandb inside a run. Links are not followed.
        """
        paths = [path for path in outputs.glob("**/config.yaml") if path.with_name("results.json").is_file()]
        for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
            run = cls(path.parent)
            try:
                if run.results.get("status") != "finished":
                    return run
            except UserError as error:
                log.warning("resume=last passes over a run: %s", error)
        raise UserError(f"resume=last: no unfinished run under {outputs}/; name one with resume=<directory>")

    @property
    def results(self) -> dict[str, Any]:
        """What results.json says now; {} where there is none."""
        path = self.dir / "results.json"
        try:
            results = json.loads(path.read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise UserError(f"{path} is torn: {error}") from error
        require(isinstance(results, dict), f"{path} is not the results of a run")
        return results

    @property
    def config(self) -> dict[str, Any]:
        """What config.yaml says, in plain values, for reading; secrets are ${oc.env:NAME}."""
        return records.read_config(self.dir / "config.yaml")

    @property
    def trusted_config(self) -> dict[str, Any]:
        """The config to train with: see `trusted`."""
        return self.trusted()

    def trusted(self, unbuilt: Collection[str] = (), typed: Collection[str] = ()) -> dict[str, Any]:
        """The config to train or evaluate with: complete, and with nothing that trust.py refuses.

        unbuilt: groups from which nothing is going to be built. typed: words that replace settings of it.
        """
        refuse_links(self.dir)
        config = {**self.config, "resume": None, "run": None}
        config |= {key: config.get(key, empty) for key, empty in REMARKS.items()}
        records.check_config(config, self.dir / "config.yaml")
        try:
            trust.check(config, {name: node for name, node in config.items() if name not in unbuilt}, typed)
        except UserError as error:
            gone = provenance.gone_sources(self.results, self.dir)  # which may be what cannot be imported
            raise UserError(f"{error}\n  {gone}" if gone else str(error)) from error
        return config

    def write_config(self, config: dict[str, Any]) -> None:
        """Write config.yaml, in one piece; `config` holds plain values, with ${oc.env:NAME} for secrets."""
        write_atomically(self.dir / "config.yaml", records.config_text(config))

    def write_results(self, results: dict[str, Any]) -> None:
        """Write results.json, in one piece. Tensors and arrays, as a callback may give, become lists; objects text."""

        def plain(value: Any) -> Any:
            return value.tolist() if hasattr(value, "tolist") else str(value)

        write_atomically(self.dir / "results.json", json.dumps(results, indent=2, default=plain) + "\n")

    @cached_property
    def checkpoint(self) -> Path:
        """The checkpoint that was chosen: the best on validation, or the last."""
        for name in ("best.ckpt", "last.ckpt"):
            if (self.dir / "checkpoints" / name).is_file():
                return self.dir / "checkpoints" / name
        raise UserError(f"{self.dir} has no checkpoint yet; go on with python train.py resume={self.dir}")

    @property
    def checkpoints(self) -> list[Path]:
        """Checkpoints from which the run can be continued, the newest first."""
        folder = self.dir / "checkpoints"
        try:
            names = os.listdir(folder)  # which says so where the folder cannot be read
        except FileNotFoundError:
            return []
        return [folder / name for name in ("last.ckpt", "previous.ckpt", "best.ckpt") if name in names]

    @property
    def measures(self) -> dict[str, Measure]:
        """What the run has measured, the headline first; only the loss where results.json does not say it."""
        rows = self.results.get("measures", {"loss": {"mode": "min"}})
        return {
            name: Measure(row["mode"], row.get("unit", ""), row.get("low"), row.get("high"))
            for name, row in rows.items()
        }

    @property
    def headline(self) -> str:
        """The name of the measure that stands for all in tables: `acc` of a classification."""
        return next(iter(self.measures))

    def monitored(self, monitor: Any) -> float:
        """The monitored metric of the chosen checkpoint, which Hydra's sweepers optimize; the worst of all numbers
        where the run has failed. monitor: the node of a config, with `metric` and `mode`.
        """
        stage, name = stage_and_name(monitor.metric)
        worst = math.inf if monitor.mode == "min" else -math.inf
        return self.results.get(stage, {}).get(name, worst)

    def task(self) -> "L.LightningModule":
        """The trained task, in eval mode, on the CPU: raw inputs, such as uint8 images [N, C, H, W], to outputs.

        A LightningModule that is no Task takes what its own `forward` does.
        """
        return load_task(self.checkpoint)

    def classifier(self) -> "Classification":
        """The same of a run of task=classification: its outputs are logits [N, num_classes]."""
        return load_classifier(self.checkpoint)

    def predict(self, images: "Tensor") -> "Tensor":
        """What the trained task says of raw inputs, such as uint8 images [N, C, H, W]: of classes probabilities."""
        import torch

        from athanor.tasks.task import require_task

        task = self.task()
        require_task(task, "a prediction")
        with torch.inference_mode():
            return torch.cat([task.prediction(task(part)) for part in images.split(512)])

    @property
    def history(self) -> dict[str, tuple["np.ndarray", "np.ndarray"]]:
        """Steps, int64, and values, float64, of each metric that metrics.csv has: `plt.plot(*run.history["val/loss"])`.

        Empty where the run has no logger=csv.
        """
        import numpy as np

        rows: dict[str, list[tuple[int, float]]] = {}
        if (path := self.dir / "metrics.csv").is_file():
            with open(path, newline="") as file:
                for row in csv.DictReader(file):
                    rows.setdefault(row["metric"], []).append((int(row["step"]), float(row["value"])))
        return {name: tuple(map(np.array, zip(*pairs, strict=True))) for name, pairs in rows.items()}


def checkpoint_of(path: str | Path) -> Path:
    """A checkpoint file as it is, or the chosen one of a run's directory."""
    return Path(path) if Path(path).suffix == ".ckpt" else Run.at(path).checkpoint


def folder_of(checkpoint: Path) -> Path:
    """The run's directory in which a checkpoint lies, or the folder of a checkpoint that is in no run."""
    folder = checkpoint.resolve().parent
    return folder.parent if (folder.parent / "config.yaml").is_file() else folder


def load_classifier(checkpoint: Path) -> "Classification":
    """The task of a checkpoint file, as `load_task`. Raises UserError where it does not predict classes."""
    from athanor.tasks.classification import Classification

    task = load_task(checkpoint)
    if not isinstance(task, Classification):
        raise UserError(f"{checkpoint} is of the task {type(task).__name__}; this needs one of task=classification")
    return task


def load_task(checkpoint: Path) -> "L.LightningModule":
    """The task of a checkpoint file alone. Raises UserError where trust.py refuses what it is made of."""
    from athanor.engine.config import assemble

    contents = read_checkpoint(checkpoint)
    record = contents["athanor"]
    records.check_complete(record["config"], checkpoint, rebuilt_only=True)
    trust.check(record["config"], schema.rebuilt_part(record["config"]))
    try:
        # compiling does not pay for the few images that a script looks at
        task = assemble.from_record(record, compiled=False)
    except UserError:
        raise
    except Exception as error:
        reason = told(error) or first_line(error)
        raise UserError(f"{checkpoint} does not fit this version of Athanor: {reason}") from error
    fill(task, contents, checkpoint)
    return task.eval()


def fill(task: "L.LightningModule", contents: dict[str, Any], checkpoint: Path) -> None:
    """Give a task the weights of a checkpoint. Raises UserError where they are those of another."""
    try:
        task.load_state_dict(contents["state_dict"])
    except RuntimeError as error:
        raise UserError(f"{checkpoint} is of another network: {first_line(error)}") from error


def read_checkpoint(path: Path, weights: bool = True) -> dict[str, Any]:
    """The contents of a checkpoint that has a record: see `read_checkpoint_file` for `weights` and what is refused."""
    from athanor.training.checkpoint_files import read_checkpoint_file  # imports torch, which takes a second

    contents = read_checkpoint_file(path, weights)
    records.check_record(contents, path)
    return contents


def shown(path: Path) -> Path:
    """A path as a person would type it: relative to the current folder where it is below it."""
    path = path.resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
