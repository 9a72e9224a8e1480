"""One network that learns what an ensemble says: some of its gain, for one forward pass (Hinton et al. 2015)."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from omegaconf import OmegaConf

from athanor.base.files import write_atomically
from athanor.callbacks.checkpoints import checkpoints_of
from athanor.engine.config import assemble, check, trust
from athanor.engine.runs.ensembles.directory import PLAIN
from athanor.engine.runs.ensembles.session import Made, Session
from athanor.engine.runs.provenance import describe, environment
from athanor.engine.runs.run import read_checkpoint


def distill(now: Session, made: Made, folder: Path) -> dict[str, Any]:
    """Train a fresh network with the settings of the first member on the ensemble's probabilities, in place of labels.

    Each training image has those of the image as it is, also where it is augmented. Validation and test are by the true
    labels. `folder` becomes a run's directory; gives its results.
    """
    config = settings(now)
    write_atomically(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
    L.seed_everything(config["seed"], verbose=False)
    data = now.data
    data.seed, data.targets = config["seed"], torch.zeros(len(data.source.train_labels), len(data.class_names))
    data.targets[data.train_index] = made.predict("train").exp()
    classifier = assemble.classifier(config, data)
    trainer = assemble.trainer(config, str(folder), data, classifier.network)
    trainer.fit(classifier, data)
    chosen = checkpoints_of(trainer).chosen
    checkpoints_of(trainer).io.wait()
    classifier.load_state_dict(read_checkpoint(folder / "checkpoints" / chosen["file"])["state_dict"])
    metrics = chosen["metrics"] | (trainer.test(classifier, data, verbose=False)[0] if now.tests else {})
    stages = [stage for stage in ("val", "test") if f"{stage}/loss" in metrics]
    found = {stage: {name: metrics[f"{stage}/{name}"] for name in ("loss", "acc")} for stage in stages}
    members = [member.name for member, weight in zip(now.members, made.weights, strict=True) if weight > 0]
    origin = {**environment(folder), "data": describe(data, now.tests)}
    results = {"status": "finished", "made": "student", "teacher": members, "seed": config["seed"], **found, **origin}
    write_atomically(folder / "results.json", json.dumps({**results, "overrides": []}, indent=2) + "\n")
    return results


def words(results: dict[str, Any]) -> str:
    stages = [stage for stage in ("val", "test") if stage in results]
    scores = [f"{stage} acc {results[stage]['acc']:.2%} loss {results[stage]['loss']:.4f}" for stage in stages]
    return f"  student of {len(results['teacher'])} members: {'   '.join(scores)}"


def settings(now: Session) -> dict[str, Any]:
    """Those of the first member, with a loss that takes probabilities."""
    recorded = now.members[0].record["config"]
    callbacks = {key: node for key, node in (recorded.get("callbacks") or {}).items() if key != "ensemble"}
    config = {**now.members[0].config, "callbacks": callbacks, "loss": PLAIN, "name": f"student_{recorded['name']}"}
    config["logger"] = {"csv": {"_target_": "athanor.training.loggers.CSVLog"}}
    config["trainer"] = {**config["trainer"], "devices": 1, "strategy": "auto"}
    trust.check(config)
    check.check(config)
    return config
