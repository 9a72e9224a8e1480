"""Where weights come from, and which images they have been trained on: a run says it of itself and of its parents."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn

from athanor.base.errors import UserError, require
from athanor.data.any_data_module import AnyDataModule
from athanor.data.module import ArrayData
from athanor.data.streamed import Items, digests
from athanor.engine.runs import teacher
from athanor.engine.runs.provenance import describe_data, hash_of
from athanor.engine.runs.run import Run, checkpoint_of, folder_of, read_checkpoint, shown
from athanor.tasks.task import Task
from athanor.training.checkpoint_files import checkpoint_digest, read_checkpoint_file

log = logging.getLogger(__name__)

STATE_DICTS = (".pt", ".pth")  # suffixes of files that hold the weights of a network and nothing else
HASHED_BYTES = 4096  # of an image, evenly spaced where it has more
MOST_SEEN = 0.01  # of the images of a stage: data sets may share some, such as empty ones
STAGES = {"val": "validation", "test": "test"}


def image_hashes(images: Tensor | Items, index: Tensor) -> Tensor:
    """A number for each of images[index], int64 [len(index)], that names its pixels. Takes 0.2 s for CIFAR-10.

    Items of a Dataset are named by their Dataset and their number, since reading them would take an epoch.
    """
    if isinstance(images, Items):
        return images.hashes(index)
    every, pixels = -(-images[0].numel() // HASHED_BYTES), images.numpy()
    return digests(pixels[i].reshape(-1)[::every].tobytes() for i in index.tolist())


def trained_images(record: dict[str, Any]) -> Tensor | None:
    """The hashes of all images that a checkpoint's weights have been trained on, its members' and its parents' too.

    None where its record does not say it.
    """
    if "members" in record:
        parts = [trained_images(member) for member in record["members"]]
        return None if any(part is None for part in parts) else torch.cat(parts).unique()
    hashes = record.get("trained")
    is_right = hashes is None or (isinstance(hashes, Tensor) and (hashes.dtype, hashes.ndim) == (torch.int64, 1))
    require(is_right, "the record of a checkpoint is damaged: `trained` is no list of hashes")
    return hashes


def refuse_trained_images(trained: Tensor | None, data: ArrayData, stages: Iterable[str], name: object) -> Tensor:
    """The hashes of the images that `data` trains on. Raises UserError where images of a stage, val or test, are among
    `trained`, more than MOST_SEEN of them; a few are a warning. An image that `data` itself has both in train and in a
    stage is a fault of the data set, and counts as new.

    name: of the weights, for the message.
    """
    own = image_hashes(data.source.train_inputs, data.train_index)
    if trained is None:
        log.warning("%s does not say which images it was trained on, so these may be among them", name)
        return own
    strange = trained[~torch.isin(trained, own)]
    for stage in stages if len(strange) else ():
        images, _, index = data.part(stage)
        seen, count = int(torch.isin(image_hashes(images, index), strange).sum()), len(index)
        text = f"{name} was trained on {seen:,} of these {count:,} {STAGES[stage]} images"
        if seen > MOST_SEEN * count:
            split = "data.split_seed, val_fraction, folds, fold, limit"
            raise UserError(f"{text}\n  use the split that it was trained with ({split})")
        if seen:
            log.warning("%s: too few to matter, as where two data sets share some", text)
    return own


def record_beginning(
    task: L.LightningModule, data: ArrayData, config: dict[str, Any], folder: Path, checkpoint: Path | None
) -> None:
    """Let the task's record say what its run begins with: `start`, a hash of the first weights (runs that share them
    may be averaged, craft/ensembles/soup.py), their `parent`, a student's `teacher`, and in `trained` the images that
    the weights have seen, with those of this run. A run that goes on from `checkpoint` takes this from there.

    Raises UserError where the run would validate or test on images that its weights have been trained on.
    """
    record = task.record
    if teacher.is_student(config):
        record["teacher"] = teacher.read_teacher(folder, data)
    if checkpoint:
        before = read_checkpoint(checkpoint, weights=False)["athanor"]
        if before.get("teacher") != record.get("teacher"):
            raise UserError(f"{shown(folder / teacher.FILE)} is not what this student began with; put that file back")
        record.update({key: before[key] for key in ("start", "parent", "trained") if key in before})
    else:
        record["start"] = hash_of(*(value.reshape(-1) for value in network_of(task).state_dict().values()))
    if isinstance(data, AnyDataModule):
        record.pop("trained", None)  # nobody knows what this run adds
        return
    seen = record.get("trained", torch.empty(0, dtype=torch.int64))  # by the parent, or before
    name = shown(folder) if checkpoint else record["parent"]["file"] if "parent" in record else "this run"
    own = refuse_trained_images(seen, data, ("val", "test") if config["eval"]["test"] else ("val",), name)
    record["trained"] = own if seen is None else torch.cat([seen, own]).unique()
    if not checkpoint and "parent" in record:
        tell_data(record["parent"], data)


def load_weights(task: L.LightningModule, source: str) -> None:
    """Start from the network of a run, of a checkpoint, or of a file with a plain state dict.

    A head of other classes, or with other outputs of another task, stays fresh, with a notice. The task's record then
    names what it comes from.
    """
    path, is_other_task = Path(source), False
    if path.suffix in STATE_DICTS and path.is_file():
        given, task.record["parent"] = plain_state(path), {"file": source, "digest": checkpoint_digest(path)}
        log.info("%s does not say which images it was trained on; these may be among them", source)
    else:
        given, is_other_task = checkpoint_state(task, path)
    own = network_of(task).state_dict()
    part = next(iter(own), "").partition(".")[0]
    if {f"{part}.{name}" for name in given} == own.keys():  # of the network of torchvision or timm that ours is made of
        given = {f"{part}.{name}": value for name, value in given.items()}
    strange = sorted(own.keys() ^ given.keys())
    head = [name for name in own if name in given and own[name].shape != given[name].shape]
    if is_other_task and not strange:
        head = list(dict.fromkeys([*head, *list(own)[-2:]]))
    if strange or not set(head) <= set(list(own)[-2:]):  # the last weight and bias
        wrong = (strange or head)[0]
        raise UserError(
            f"weights={source} are of another network ({wrong} differs); use the model settings of that run"
        )
    network_of(task).load_state_dict({**given, **{name: own[name] for name in head}})
    task.fresh_network = None  # a range test is to measure these weights
    reason = "its task is another" if is_other_task else "the classes differ"
    replaced = f"; the head ({', '.join(head)}) is new, as {reason}" if head else ""
    log.info("starting from the weights of %s%s", task.record["parent"]["file"], replaced)


def checkpoint_state(task: L.LightningModule, path: Path) -> tuple[dict[str, Tensor], bool]:
    """The weights of the network in a checkpoint, and whether its outputs are those of another task; the task's record
    takes down which one, how good it was, and what it has been trained on.
    """
    file = checkpoint_of(path)
    contents = read_checkpoint(file)
    record = contents["athanor"]
    named = {"file": str(shown(file)), "digest": checkpoint_digest(file), **scores(file, contents)}
    task.record["parent"] = {**named, "data": record.get("data", {}), "parent": record.get("parent")}
    task.record["trained"] = trained_images(record)
    theirs, own = ((each["config"].get("data") or {}).get("preprocess") for each in (record, task.record))
    if theirs != own:
        log.info("data.preprocess was %s for these weights, and is %s now", theirs, own)
    then, now = record["class_names"], task.record["class_names"]
    is_other_task = record["config"]["task"]["_target_"] != task.record["config"]["task"]["_target_"] and then != now
    if then != now and len(then) == len(now) and not is_other_task:  # else the head is new, which is said
        log.info("the head was trained for other classes: %s, and now %s", ", ".join(then[:10]), ", ".join(now[:10]))
    state = contents["state_dict"]
    if isinstance(task, Task):
        state = {name.removeprefix("network."): state[name] for name in state if name.startswith("network.")}
    return state, is_other_task


def network_of(task: L.LightningModule) -> nn.Module:
    """The part of a task whose weights another run may start from; of a module that is no Task, all of it."""
    return task.network if isinstance(task, Task) else task


def plain_state(path: Path) -> dict[str, Tensor]:
    """What torch.save(network.state_dict()) has written, also where the names begin with `network.`, as in a task."""
    state = read_checkpoint_file(path)
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(
            f"weights={path}: it must hold what torch.save(network.state_dict(), ...) writes, names to tensors"
        )
    return {str(name).removeprefix("network."): value for name, value in state.items()}


def scores(file: Path, contents: dict[str, Any]) -> dict[str, float]:
    """The headline of a checkpoint on validation, and on the test set where its run has tested it."""
    run = Run(folder_of(file))
    headline, results = run.headline, run.results
    if results.get("checkpoint") == f"checkpoints/{file.name}":
        values = {f"{stage}/{name}": value for stage in STAGES for name, value in results.get(stage, {}).items()}
    else:
        values = contents.get("metrics", {})
    return {name: values[name] for name in (f"val/{headline}", f"test/{headline}") if name in values}


def tell_data(parent: dict[str, Any], data: ArrayData) -> None:
    """Say where a run's images are not those of its parent, or its split is another."""
    before, now = parent.get("data") or {}, describe_data(data, False)
    if before and any(before.get(key) != now[key] for key in ("train_hash", "split_hash")):
        what = "another split of these images" if before.get("train_hash") == now["train_hash"] else "other images"
        log.info("its weights were trained on %s: %s of %s", what, before.get("train"), before.get("origin"))
