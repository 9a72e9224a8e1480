"""An ensemble or a soup as a run's directory, which evaluate.py, predict.py and export.py take like any run."""

import json
import time
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor

from athanor.base.errors import UserError
from athanor.base.files import write_atomically
from athanor.data.module import ImageData
from athanor.engine.app.directories import claim
from athanor.engine.runs.ensembles.members import Member
from athanor.engine.runs.provenance import describe, environment
from athanor.engine.runs.run import read_checkpoint
from athanor.tasks.classification import Classifier
from athanor.training import checkpoint_files

PLAIN = {"_target_": "athanor.tasks.losses.CrossEntropy", "label_smoothing": 0.0, "class_weights": None}
TOLERANCE = 1e-2  # of a logit, relative to max(1, |logit|): an accelerator rounds by the size of a batch


def settings(record: dict[str, Any], kind: str) -> dict[str, Any]:
    """The config of a member, to evaluate by what the report is of: negative log-likelihood in float32."""
    config = record["config"]
    trainer = {**config["trainer"], "precision": "32-true"}
    return {**config, "name": f"{kind}_{config['name']}", "loss": PLAIN, "trainer": trainer, "eval": {"tta": "none"}}


def ensemble(members: list[Member], weights: list[float], how: str, kind: str) -> dict[str, Any]:
    """Contents of the checkpoint of an ensemble: the records and the weights of its members."""
    state: dict[str, Tensor] = {}
    for number, member in enumerate(members):
        own = read_checkpoint(member.path)["state_dict"]
        state |= {f"network.members.{number}.{name}": value for name, value in own.items()}
    first = members[0].record
    shared = {key: first[key] for key in ("input_shape", "class_names", "split_hash")}
    records = [member.record for member in members]
    made = {"members": records, "combine": how, "weights": weights, "tta": kind}
    return {"athanor": {"config": settings(first, "ensemble"), **shared, **made}, "state_dict": state}


def soup(classifier: Classifier, record: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Contents of the checkpoint of a soup, an ordinary classifier."""
    state = {name: value.cpu() for name, value in classifier.state_dict().items() if not name.startswith("loss.")}
    return {"athanor": {**record, "config": settings(record, "soup"), "soup": names}, "state_dict": state}


def make(output: str | None) -> Path:
    """A new folder: that of the person, or one below outputs/."""
    if output is None:
        return Path(claim(f"outputs/ensembles/{time.strftime('%Y-%m-%d_%H-%M-%S')}"))
    try:
        Path(output).mkdir(parents=True)
    except FileExistsError:
        raise UserError(f"--output {output} is there already; name a new folder") from None
    except OSError as error:
        raise UserError(f"--output {output} cannot be made ({error.strerror}); name another folder") from error
    return Path(output)


def write(directory: Path, contents: dict[str, Any], results: dict[str, Any], data: ImageData, test: bool) -> Path:
    """Its config.yaml comes last: what has none is no run. Gives the checkpoint's path."""
    path = directory / "checkpoints" / "best.ckpt"
    path.parent.mkdir()
    checkpoint_files.write_checkpoint(contents, path)
    origin = {**environment(directory), "data": describe(data, test)}
    results = {"status": "finished", **results, "checkpoint": "checkpoints/best.ckpt", "overrides": [], **origin}
    write_atomically(directory / "results.json", json.dumps(results, indent=2) + "\n")
    write_atomically(directory / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(contents["athanor"]["config"])))
    return path
