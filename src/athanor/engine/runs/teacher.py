"""What a student learns from: a teacher's probabilities for its training images, kept in the student's own folder.

So a student that was interrupted goes on with its teacher, wherever the members of that ensemble are by then.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from athanor.base.errors import UserError, require
from athanor.data.module import ArrayData
from athanor.engine.runs.run import shown
from athanor.training.checkpoint_files import checkpoint_digest, read_checkpoint_file, write_checkpoint

FILE = "teacher.pt"
ABOUT = {"made", "teacher", "temperature", "out_of_fold"}  # what results.json says of a student
LOSS = "athanor.tasks.losses.Distillation"


def is_student(config: dict[str, Any]) -> bool:
    return (config["loss"] or {}).get("_target_") == LOSS  # a module may have its own loss


def write_teacher(folder: Path, probabilities: Tensor, data: ArrayData, about: dict[str, Any]) -> None:
    """Write probabilities float32 [N, num_classes] for the training images of `data`, and `about`, with the
    keys of ABOUT.
    """
    write_checkpoint({"probabilities": probabilities, "split_hash": data.split_hash, "about": about}, folder / FILE)


def copy_teacher(source: Path, folder: Path) -> None:
    """Give a run that repeats a student the same teacher. Raises UserError where it is gone."""
    require((source / FILE).is_file(), f"{shown(source)} is a student, and its {FILE} is gone; make another student")
    shutil.copyfile(source / FILE, folder / FILE)


def read_teacher(folder: Path, data: ArrayData) -> dict[str, Any]:
    """Let `data` give the teacher's probabilities in place of the training targets. Gives the teacher's `digest` and
    what results.json says of it.

    Raises UserError where the file is gone, damaged, or for other images than `data` trains on.
    """
    path = folder / FILE
    require(
        path.is_file(), f"{shown(path)} is gone, from which this student learns; put it back or make another student"
    )
    contents = read_checkpoint_file(path)
    probabilities = contents.get("probabilities") if isinstance(contents, dict) else None
    shape = (len(data.train_index), len(data.class_names))
    if not isinstance(probabilities, Tensor) or contents.get("split_hash") != data.split_hash:
        raise UserError(f"{shown(path)} has the predictions of a teacher for other images than this run trains on")
    require(probabilities.shape == shape, f"{shown(path)} is damaged: it has not {shape[0]} rows of {shape[1]} numbers")
    data.soft_targets = torch.zeros(len(data.source.train_targets), shape[1])
    data.soft_targets[data.train_index] = probabilities
    about = contents.get("about")
    require(isinstance(about, dict) and set(about) == ABOUT, f"{shown(path)} is damaged: it does not say what it is of")
    return {**about, "digest": checkpoint_digest(path)}
