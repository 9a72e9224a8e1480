"""From members to what is made of them: an ensemble or a soup, chosen on validation and then tested."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from athanor.base.errors import UserError
from athanor.craft.ensembles import choose, combine, predictions
from athanor.craft.ensembles import soup as soups
from athanor.craft.ensembles.predictions import Stage
from athanor.craft.ensembles.report import Report, report
from athanor.engine.config import assemble
from athanor.engine.runs.ensembles import directory, members
from athanor.engine.runs.run import fill
from athanor.tasks import tta
from athanor.training import devices, precision

log = logging.getLogger(__name__)
VIEWS: dict[tta.Kind, int] = {"none": 1, "flip": 2, "flip_shift": 6}  # forward passes of a member
CHECKED = 32  # images that are predicted again, to see whether kept predictions still hold


@dataclass(frozen=True)
class Made:
    """`weights` has one for each member that was asked for. `predict` gives log-probabilities [N, C] of a stage."""

    kind: str  # ensemble, or soup
    weights: list[float]
    passes: int  # an image
    contents: dict[str, Any]  # of its checkpoint
    predict: Callable[[Stage], Tensor]


class Session:
    """Members, their data, and their logits, each of which is computed once."""

    def __init__(self, words: list[str], all_checkpoints: bool, kind: tta.Kind, stage: Stage | None) -> None:
        self.members = members.find(words, all_checkpoints)
        self.data, self.kind = members.shared_data(self.members), kind
        if kind == "flip_shift" and min(self.data.input_shape[1:]) < 2:
            raise UserError("--tta flip_shift moves images by a pixel, and these are one pixel wide; use flip or none")
        config = self.members[0].config
        there = devices.device_type(config["trainer"]["accelerator"])
        self.device = there if devices.available().get(there) else "cpu"
        precision.set_matmul_precision(config["matmul_precision"], self.device)
        torch.set_num_threads(config["threads"] or assemble.THREADS)
        self.tests = self.is_test_read(stage)
        self.found: dict[Stage, Tensor] = {}
        self.losses = choose.losses(self.logits("val"), self.labels("val")) if self.validates else None

    def is_test_read(self, stage: Stage | None) -> bool:
        unread = [member.name for member in self.members if not member.record["config"].get("test", True)]
        if stage is None and unread:
            log.warning("the test set stays unread, as %s has test=false; type --stage test to read it", unread[0])
        if stage == "val" and not self.validates:
            raise UserError("--stage val: these members have no validation images; use --stage test")
        return stage == "test" or (stage is None and not unread)

    @property
    def validates(self) -> bool:
        return len(self.data.val_index) > 0

    @property
    def best(self) -> str | None:
        """The name of the member that is best on validation."""
        return None if self.losses is None else self.members[self.losses.index(min(self.losses))].name

    def logits(self, stage: Stage, chosen: list[int] | None = None) -> Tensor:
        """[M, N, C] of all members, or of those that were chosen, of which alone the other stages are asked."""
        if stage not in self.found:
            part = self.members if chosen is None else [self.members[i] for i in chosen]
            self.found[stage] = predictions.stacked(part, self.data, stage, self.kind, self.device)
            return self.found[stage]
        return self.found[stage][chosen] if stage == "val" and chosen is not None else self.found[stage]

    def labels(self, stage: Stage) -> Tensor:
        return predictions.labels(self.data, stage)

    def reports(self, made: Made) -> list[Report]:
        """Validation first, with all members; then the test set, for those that were chosen alone."""
        found = []
        names = [member.name for member in self.members]
        if self.validates:
            found.append(self.report("val", names, made.weights, made))
        if self.tests:
            used = inside(made.weights)
            found.append(self.report("test", [names[i] for i in used], [made.weights[i] for i in used], made))
        if not found:
            raise UserError("these members have no validation images; type --stage test to read the test set")
        if made.kind == "ensemble":
            refuse_stale(self, made, found[0].stage)
        return found

    def report(self, stage: Stage, names: list[str], weights: list[float], made: Made) -> Report:
        logits = self.logits(stage, inside(made.weights) if stage == "test" else None)
        return report(stage, names, weights, logits, made.predict(stage), self.labels(stage))


def ensemble(now: Session, how: combine.How, select: choose.Select, k: int | None) -> Made:
    """Choose on validation, where there is one, and describe what was chosen."""
    if now.validates:
        weights = choose.weights(select, k, how, now.logits("val"), now.labels("val")).tolist()
    else:
        weights = choose.weights(select, k, how, torch.zeros(len(now.members), 0, 1), torch.zeros(0)).tolist()
    used = inside(weights)
    parts, shares = [now.members[i] for i in used], [weights[i] for i in used]

    def predict(stage: Stage) -> Tensor:
        return combine.combined(now.logits(stage, used), how, torch.tensor(shares))

    contents = directory.ensemble(parts, shares, how, now.kind)
    return Made("ensemble", weights, len(used) * VIEWS[now.kind], contents, predict)


def soup(now: Session, kind: soups.Kind) -> Made:
    soups.refuse_other_starts(now.members)
    if now.losses is None:
        raise UserError("--soup is judged on validation images, and these members have none")
    made = soups.cook(now.members, kind, now.losses, now.data, now.device)
    weights = [1 / len(made.used) if i in made.used else 0.0 for i in range(len(now.members))]
    names = [now.members[i].name for i in made.used]
    contents = directory.soup(made.classifier, now.members[made.used[0]].record, names)
    return Made("soup", weights, 1, contents, lambda stage: made.logits(stage).log_softmax(-1))


@torch.inference_mode()
def refuse_stale(now: Session, made: Made, stage: Stage) -> None:
    """Raise UserError where members say something else of images than what was kept: their code has changed since."""
    classifier = assemble.from_record(made.contents["athanor"])
    fill(classifier, made.contents, "the ensemble")
    used = inside(made.weights)
    part = predictions.batches(now.data, stage)
    images = part.images[part.index[:CHECKED]].to(now.device)
    got = classifier.to(now.device).eval().network.each(images).cpu()
    for index, was, said in zip(used, now.logits(stage, used)[:, :CHECKED], got, strict=True):
        if not ((said - was).abs() <= directory.TOLERANCE * was.abs().clamp_min(1)).all():
            where = now.members[index].folder / "predictions"
            raise UserError(
                f"{now.members[index].name} gives other logits than those kept in {where}: its code has changed\n"
                "  delete that folder and try again"
            )


def inside(weights: list[float]) -> list[int]:
    return [index for index, weight in enumerate(weights) if weight > 0]
