"""The members of an ensemble: checkpoints, found from what a person types, that answer the same question."""

import hashlib
import logging
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from athanor.base.errors import UserError
from athanor.data.module import ImageData
from athanor.engine.config import assemble, check, records, trust
from athanor.engine.runs.provenance import hash_of
from athanor.engine.runs.run import Run, checkpoint_record, shown
from athanor.engine.runs.sweep import Sweep

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Member:
    """A checkpoint. `record` describes its classifier; `results` are those of its run, {} for a file in none."""

    path: Path
    name: str
    digest: str
    record: dict[str, Any]
    results: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Of its run, or that which a file alone lies in."""
        return folder_of(self.path)

    @property
    def config(self) -> dict[str, Any]:
        """Complete, checked and trusted, to load its data by. A checkpoint may be anybody's."""
        config = {**self.record["config"], "resume": None, "run": None, "logger": {}, "callbacks": {}}
        records.check_config(config, self.path)
        trust.check(config)
        check.check(config)
        return config

    def data(self) -> ImageData:
        return assemble.data(self.config)


def find(words: list[str], all_checkpoints: bool = False) -> list[Member]:
    """The members that runs, sweeps and checkpoint files have: the chosen checkpoint of a run, or all that it kept."""
    members: dict[str, Member] = {}
    for path, name in (found for word in words for found in checkpoints_of(Path(word), all_checkpoints)):
        record, digest = checkpoint_record(path), content(path)
        if digest in members:
            log.warning("%s is the same checkpoint as %s; it is used once", name, members[digest].name)
            continue
        members[digest] = Member(path, name, digest, record, Run(folder_of(path)).results)
    if len(members) < 2:
        raise UserError(
            f"an ensemble needs two members, and {' '.join(words)} has {len(members)}; name several runs, a sweep, or "
            "a run that keeps several (callbacks.checkpoints.top_k=5) with --checkpoints"
        )
    return list(members.values())


def checkpoints_of(word: Path, all_checkpoints: bool) -> Iterator[tuple[Path, str]]:
    """Checkpoints of a file, a run or the finished runs of a sweep, with names for tables."""
    if word.suffix == ".ckpt":
        yield word, str(shown(word))
        return
    runs = [Run(word)] if (word / "config.yaml").is_file() else finished(word)
    for run in runs:
        if not all_checkpoints:
            yield run.checkpoint, str(shown(run.dir))
            continue
        kept = sorted((run.dir / "checkpoints").glob("epoch_*.ckpt"))
        if not kept:
            raise UserError(f"{run.dir} keeps only its best checkpoint; train with callbacks.checkpoints.top_k=5")
        yield from ((path, str(shown(path))) for path in kept)


def finished(directory: Path) -> list[Run]:
    runs = Sweep(directory).runs
    if not runs:
        raise UserError(f"{directory} is neither a run, nor a sweep, nor a .ckpt file")
    done = [run for run in runs if run.results.get("status") == "finished"]
    if len(done) < len(runs):
        missing = len(runs) - len(done)
        log.warning("%d of %d jobs of %s have not finished and are left out", missing, len(runs), directory)
    return done


def folder_of(path: Path) -> Path:
    folder = path.resolve().parent
    return folder.parent if (folder.parent / "config.yaml").is_file() else folder


def content(path: Path) -> str:
    """Names what is in a checkpoint: its archive lists the checksum of each entry, so that the file is not read."""
    with zipfile.ZipFile(path) as archive:
        entries = [(entry.filename.partition("/")[2], entry.CRC, entry.file_size) for entry in archive.infolist()]
    return hashlib.sha256(repr(sorted(entries)).encode()).hexdigest()[:16]


def shared_data(members: list[Member]) -> ImageData:
    """The data that all members are judged on, that of the first. Raises UserError where it is no fair judge."""
    first = members[0]
    for member in members[1:]:
        for key in "class_names", "input_shape":
            if member.record[key] != first.record[key]:
                raise UserError(
                    f"members of an ensemble need the same {key}: {member.name} has {member.record[key]}, "
                    f"{first.name} has {first.record[key]}"
                )
    data = first.data()
    assemble.refuse_other_data(first.record, data)
    for member in members:
        if member.record.get("split_hash") != data.split_hash:
            refuse_seen_images(member, data, first.name)
    return data


def refuse_seen_images(member: Member, data: ImageData, first: str) -> None:
    """A member of another split may be asked about this validation set if it has not been trained on any of it."""
    other = member.data()
    if other.split_hash != member.record.get("split_hash"):
        raise UserError(f"the images or the split of {member.name} are not those that it was trained on any more")
    sources = [(part.source.train_images, part.source.train_labels) for part in (data, other)]
    if hash_of(*sources[0]) != hash_of(*sources[1]):
        raise UserError(f"{member.name} was trained on other images than {first}; an ensemble needs one data set")
    if seen := int(torch.isin(data.val_index, other.train_index).sum()):
        raise UserError(
            f"{member.name} was trained on {seen} of the {len(data.val_index)} validation images of {first}\n"
            "  members need one split: the same data.split_seed, data.val_fraction, data.limit and data.fold"
        )
