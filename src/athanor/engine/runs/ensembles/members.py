"""The members of an ensemble: checkpoints that a person names, and whether one data set can judge them all."""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from athanor.base.errors import UserError
from athanor.base.files import refuse_links
from athanor.craft.ensembles.predictions import SavedClassifier
from athanor.data.module import ArrayData
from athanor.engine.config import assemble, check, records, trust
from athanor.engine.runs.provenance import hash_of
from athanor.engine.runs.run import Run, folder_of, load_classifier, read_checkpoint, shown
from athanor.engine.runs.sweep import Sweep
from athanor.training.checkpoint_files import checkpoint_digest, position_in

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Member:
    """A checkpoint, its name in tables, and the record in it that describes its classifier."""

    path: Path
    name: str
    record: dict[str, Any]

    @property
    def saved(self) -> SavedClassifier:
        """Its logits are kept in predictions/ of its run, or beside a checkpoint that is in no run."""
        return SavedClassifier(self.path, folder_of(self.path) / "predictions", partial(load_classifier, self.path))

    @property
    def config(self) -> dict[str, Any]:
        """The config to load its data by: complete, checked and trusted, as a checkpoint may be anybody's."""
        config = {**self.record["config"], "resume": None, "run": None, "logger": {}, "callbacks": {}}
        records.check_config(config, self.path)
        trust.check(self.record["config"], config)
        check.check(config)
        return config


def find_members(words: list[str], all_checkpoints: bool = False) -> list[Member]:
    """The members of runs, sweeps and checkpoint files: the chosen checkpoint of a run, or all that it kept.

    Raises UserError where there are fewer than two, or a word names none of these.
    """
    members: dict[str, Member] = {}
    for path, name in (pair for word in words for pair in member_checkpoints(Path(word), all_checkpoints)):
        contents, digest = read_checkpoint(path, weights=False), checkpoint_digest(path)
        refuse_other_epoch(path, contents)
        if digest in members:
            log.warning("%s is the same checkpoint as %s; it is used once", name, members[digest].name)
            continue
        members[digest] = Member(path, name, contents["athanor"])
    if len(members) < 2:
        raise UserError(
            f"an ensemble needs two members, and {' '.join(words)} has {len(members)}; name several runs, a sweep, or "
            "a run that keeps several (callbacks.checkpoints.top_k=5) with --checkpoints"
        )
    return list(members.values())


def member_checkpoints(word: Path, all_checkpoints: bool) -> Iterator[tuple[Path, str]]:
    """Checkpoints of a file, a run or the finished runs of a sweep, with names for tables."""
    if word.suffix == ".ckpt":
        yield word, str(shown(word))
        return
    runs = finished = [Run(word)]
    if not (word / "config.yaml").is_file():
        runs = Sweep(word).runs
        finished = [run for run in runs if run.results.get("status") == "finished"]
    if not runs:
        raise UserError(f"{word} is neither a run, nor a sweep, nor a .ckpt file")
    if missing := len(runs) - len(finished):
        log.warning("%d of %d jobs of %s have not finished and are left out", missing, len(runs), word)
    for run in finished:
        refuse_links(run.dir)
        if not all_checkpoints:
            yield run.checkpoint, str(shown(run.dir))
            continue
        kept = sorted((run.dir / "checkpoints").glob("epoch_*.ckpt"))
        if not kept:
            raise UserError(f"{run.dir} keeps only its best checkpoint; train with callbacks.checkpoints.top_k=5")
        yield from ((path, str(shown(path))) for path in kept)


def refuse_other_epoch(path: Path, contents: dict[str, Any]) -> None:
    """Raise UserError where a checkpoint's file is named after another epoch than the one in which it was made."""
    name, epoch = re.fullmatch(r"epoch_(\d+)\.ckpt", path.name), position_in(contents)[0] + 1
    if name and int(name[1]) != epoch:
        raise UserError(f"{path} is of epoch {epoch}; rename it, or leave it out")


def shared_data(members: list[Member]) -> tuple[ArrayData, list[Tensor]]:
    """The data of the first member, on which all are judged, and for each the numbers of the images that it was trained
    on. Raises UserError where members are of other data.
    """
    first = members[0]
    for member in members[1:]:
        for key in "class_names", "input_shape", "input_dtype":
            own, other = member.record[key], first.record[key]
            if own != other:
                raise UserError(
                    f"members of an ensemble need the same {key}: {member.name} has {own}, {first.name} has {other}"
                )
        if member.record["columns"] != first.record["columns"]:
            raise UserError(f"{member.name} and {first.name} read columns of a table in other ways; use one split")
    data = assemble.data(first.config)
    assemble.refuse_other_data(first.record, data)
    train_hash = hash_of(data.source.train_inputs, data.source.train_targets)
    return data, [trained_index(member, data, train_hash, first.name) for member in members]


def trained_index(member: Member, data: ArrayData, train_hash: str, first: str) -> Tensor:
    """Which images of `data` a member was trained on, int64; it may be of another split, but not of other images.

    train_hash: of the images of `data`, which is that of the member `first`.
    """
    if member.record.get("data", {}).get("train_hash") != train_hash:
        what = "its folder or file has changed" if member.name == first else f"{first} has others"
        raise UserError(f"{member.name} was trained on other images than these: {what}; an ensemble needs one data set")
    if member.record["split_hash"] == data.split_hash:
        return data.train_index
    other = assemble.data(member.config)
    if other.split_hash != member.record["split_hash"]:
        raise UserError(f"the split of {member.name} is not the one that it was trained with any more")
    return other.train_index


def refuse_seen_images(members: list[Member], trained: list[Tensor], data: ArrayData) -> None:
    """Raise UserError where a member has been trained on some of the validation images of `data`."""
    if data.source.val_inputs is not None:  # an official set, no part of what is trained on
        return
    for member, index in zip(members, trained, strict=True):
        if seen := int(torch.isin(data.val_index, index).sum()):
            raise UserError(
                f"{member.name} was trained on {seen} of the {len(data.val_index)} validation images of "
                f"{members[0].name}\n  members need one split: the same data.split_seed, data.val_fraction, data.limit "
                "and data.fold; all folds together can teach a student (--distill)"
            )


def refuse_other_starts(members: list[Member]) -> None:
    """Raise UserError where the mean of the members' weights makes no network: their training began elsewhere."""
    first = members[0]
    for member in members:
        if "members" in member.record:
            raise UserError(f"{member.name} is an ensemble, which has no weights to average; leave out --soup")
        if "start" not in member.record:
            raise UserError(f"{member.name} was written before runs recorded what they started from; train it again")
        if member.record["start"] != first.record["start"]:
            raise UserError(
                f"{member.name} and {first.name} started from other weights, and the mean of theirs would be no network"
                "\n  a soup takes checkpoints of one run, or runs with the same weights=<run>; leave out --soup"
            )
        own, other = member.record["config"], first.record["config"]
        if (own["model"], own["data"]["preprocess"]) != (other["model"], other["data"]["preprocess"]):
            raise UserError(f"{member.name} has other settings of the model or data.preprocess than {first.name}")
