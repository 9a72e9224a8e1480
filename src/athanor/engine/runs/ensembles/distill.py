"""One network that learns what an ensemble predicts: part of its gain, for one forward pass (Hinton et al. 2015)."""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch

from athanor.callbacks.checkpoints import checkpoints_of
from athanor.engine.config import assemble, check, trust
from athanor.engine.runs.ensembles.session import PLAIN_LOSS, Combination, Session
from athanor.engine.runs.run import read_checkpoint
from athanor.tasks.classification import Classification
from athanor.tasks.measure import written


def distill(session: Session, ensemble: Combination, folder: Path) -> str:
    """Train a fresh network with the settings of the first member on the ensemble's probabilities, in place of labels.

    The targets of a training image are those of the image as it is, also where it is augmented. Validation and test are
    by the true labels. `folder` becomes a run's directory; gives a line that says how good the student is.
    """
    config = student_config(session)
    L.seed_everything(config["seed"], verbose=False)
    data = session.data
    data.seed = config["seed"]
    data.soft_targets = torch.zeros(len(data.source.train_targets), len(data.class_names))
    data.soft_targets[data.train_index] = ensemble.predict("train").exp()
    classifier = assemble.task(config, data)
    trainer = assemble.trainer(config, str(folder), data, classifier.network)
    trainer.fit(classifier, data)
    chosen = checkpoints_of(trainer).chosen
    checkpoints_of(trainer).io.wait()
    classifier.load_state_dict(read_checkpoint(folder / "checkpoints" / chosen["file"])["state_dict"])
    metrics = chosen["metrics"] | (trainer.test(classifier, data, verbose=False)[0] if session.reads_test else {})
    stages = [stage for stage in ("val", "test") if f"{stage}/loss" in metrics]
    scores = {stage: {name: metrics[f"{stage}/{name}"] for name in Classification.measures} for stage in stages}
    teacher = [session.members[index].name for index in ensemble.weights]
    session.write(folder, config, {"made": "student", "teacher": teacher, "seed": config["seed"], **scores})
    text = [f"{stage} {written(of, Classification.measures)}" for stage, of in scores.items()]
    return f"  student of {len(teacher)} members: {'   '.join(text)}"


def student_config(session: Session) -> dict[str, Any]:
    """The config of the first member, with a loss that takes probabilities, on one device, logged to metrics.csv."""
    first = session.members[0]
    recorded = first.record["config"]
    config = {
        **first.config,
        "name": f"student_{recorded['name']}",
        "loss": PLAIN_LOSS,
        "callbacks": {key: node for key, node in (recorded.get("callbacks") or {}).items() if key != "ensemble"},
        "logger": {"csv": {"_target_": "athanor.training.loggers.CSVLog"}},
        "trainer": {**recorded["trainer"], "devices": 1, "strategy": "auto"},
    }
    trust.check_targets(config)
    check.check(config)
    return config
