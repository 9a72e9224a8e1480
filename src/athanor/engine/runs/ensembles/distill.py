"""One network that learns what an ensemble predicts: part of its gain, for one forward pass (Hinton et al. 2015)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from athanor.base.errors import UserError
from athanor.craft.ensembles.combine import combined
from athanor.data.module import ArrayData
from athanor.engine.config import assemble, check, trust
from athanor.engine.runs.ensembles.session import Combination, Session
from athanor.engine.runs.run import Run
from athanor.engine.runs.teacher import write_teacher
from athanor.training.checkpoint_files import checkpoint_digest

OF_UNSEEN = (
    "each training image was predicted by the members that were not trained on it; these were trained on the student's "
    "validation images, so its figures on validation are a little too good"
)
OF_SEEN = (
    "the members were trained on the images that they predicted for it, so they were surer than of new ones; all folds "
    "of a cross-validation (-m data.folds=5 'data.fold=range(5)') predict images that they have not seen"
)


def distill(session: Session, ensemble: Combination, folder: Path, config: dict[str, Any], data: ArrayData) -> str:
    """Make `folder` a run that has not begun, of a fresh network that learns the ensemble's probabilities in place of
    labels: `python train.py resume=<folder>` trains it. Gives lines on the teacher.

    config, data: of `student`. The targets of a training image are those of the image as it is, also where it is
    augmented. Validation and test are by the true labels.
    """
    temperature = config["loss"]["temperature"]
    teacher = {
        session.members[index].name: checkpoint_digest(session.members[index].path) for index in ensemble.weights
    }
    about = {"teacher": teacher, "temperature": temperature, "out_of_fold": session.is_cross_validated}
    probabilities = teacher_probabilities(session, ensemble, temperature)
    write_teacher(folder, probabilities, data, {"made": "student", **about})
    config = {**config, "eval": {**config["eval"], "test": session.reads_test}}
    Run(folder).write_config(config)
    said = OF_UNSEEN if session.is_cross_validated else OF_SEEN
    return f"  student of {len(teacher)} members\n  {said}"


def teacher_probabilities(session: Session, ensemble: Combination, temperature: float) -> Tensor:
    """What the ensemble says of the training images, [N, num_classes], its members' logits divided by the temperature.

    Where the members are folds of a cross-validation, an image is predicted by those that were not trained on it.
    """
    used, shares = list(ensemble.weights), torch.tensor(list(ensemble.weights.values()))
    logits, how = session.logits("train", used) / temperature, ensemble.checkpoint["athanor"]["combine"]
    asked = session.held_out[used] if session.is_cross_validated else torch.ones(logits.shape[:2], dtype=torch.bool)
    probabilities = torch.empty(logits.shape[1:])
    for members in asked.unique(dim=1).T:
        images = (asked == members[:, None]).all(0)
        probabilities[images] = combined(logits[members][:, images], how, shares[members]).exp()
    return probabilities


def student(session: Session, settings: dict | None, temperature: float) -> tuple[dict[str, Any], ArrayData]:
    """The config of a student, on one device and logged to metrics.csv, and its data.

    settings: None, those of the first member. Raises UserError where they choose other training images than it had.
    """
    own = settings or session.members[0].record["config"]
    if settings is None:
        trust.check(own, {name: node for name, node in own.items() if name not in ("loss", "logger")})
    config = {
        **own,
        "name": f"student_{own['name']}",
        "resume": None,
        "run": None,
        "weights": None,
        "loss": {"_target_": "athanor.tasks.losses.Distillation", "temperature": temperature},
        "callbacks": {key: node for key, node in (own.get("callbacks") or {}).items() if key != "ensemble"},
        "logger": {"csv": {"_target_": "athanor.training.loggers.CSVLog"}},
        "trainer": {**own["trainer"], "devices": 1, "strategy": "auto"},
    }
    check.check(config)
    data = assemble.data(config) if settings else session.data
    if data.split_hash != session.data.split_hash:
        raise UserError("--student cannot choose other images than the teacher had; leave out data= and the split")
    return config, data
