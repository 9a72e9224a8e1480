"""From members to their combination, an ensemble or a soup: chosen on validation, and then tested."""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from athanor.base.errors import UserError
from athanor.craft.ensembles import combine, selection
from athanor.craft.ensembles import soup as soups
from athanor.craft.ensembles.predictions import Stage, stacked_logits, stage_labels
from athanor.craft.ensembles.report import Report
from athanor.engine.config import assemble, built_here
from athanor.engine.config.refusals import refuse_views
from athanor.engine.runs.ensembles.members import find_members, refuse_other_starts, refuse_seen_images, shared_data
from athanor.engine.runs.lineage import refuse_trained_images, trained_images
from athanor.engine.runs.provenance import count_test_read, describe_data, differences, environment
from athanor.engine.runs.run import Run, load_classifier, read_checkpoint
from athanor.tasks import tta
from athanor.training import devices

log = logging.getLogger(__name__)
VIEWS: dict[tta.Kind, int] = {"none": 1, "flip": 2, "flip_shift": 6}  # forward passes of a member for an image
PLAIN_LOSS = {"_target_": "athanor.tasks.losses.CrossEntropy", "label_smoothing": 0.0, "class_weights": None}


@dataclass(frozen=True)
class Combination:
    """What is made of members. `weights` are those of the members that are used, by their indices in the session."""

    kind: str  # ensemble, or soup
    weights: dict[int, float]
    passes: int  # forward passes for an image
    checkpoint: dict[str, Any]  # contents of its file
    predict: Callable[[Stage], Tensor]  # gives log-probabilities [N, C] for the images of a stage


class Session:
    """Members, the data that judges them, and their logits, each of which is computed once.

    words: runs, sweeps and checkpoint files. all_checkpoints: all that a run kept, instead of the chosen one. kind: the
    views of each image that logits are averaged over. stage: val leaves the test set unread, test reads it; None reads
    it if the runs of all members did. distills: the members teach a student; then they may be all folds of a
    cross-validation, of which each has seen the validation images of the others, so none of these judge them.
    """

    def __init__(
        self, words: list[str], all_checkpoints: bool, kind: tta.Kind, stage: Stage | None, distills: bool = False
    ) -> None:
        self.members = find_members(words, all_checkpoints)
        self.data, trained = shared_data(self.members)
        # which training images of the data each member was not trained on, bool [M, N]
        self.held_out = torch.stack([~torch.isin(self.data.train_index, index) for index in trained])
        self.is_cross_validated = distills and bool(self.held_out.any(0).all())
        if not self.is_cross_validated:
            refuse_seen_images(self.members, trained, self.data)
        self.kind = kind
        refuse_views(kind, self.data.input_shape, f"--tta {kind}")
        config = self.members[0].config
        there = devices.device_type(config["trainer"]["accelerator"])
        self.device = there if devices.available().get(there) else "cpu"
        assemble.use_machine(config, self.device)
        unread = [member.name for member in self.members if not member.record["config"]["eval"]["test"]]
        if stage is None and unread:
            log.warning("the test set stays unread, as %s has eval.test=false; type --stage test to read it", unread[0])
        self.has_validation = len(self.data.val_index) > 0 and not self.is_cross_validated
        self.reads_test = stage == "test" or (stage is None and not unread)
        if not (self.has_validation or self.reads_test or self.is_cross_validated):
            raise UserError("these members have no validation images; type --stage test to read the test set")
        self.described = describe_data(self.data, self.reads_test)
        self.refuse_other_tests()
        self.stacked: dict[Stage, Tensor] = {}  # logits that are computed already
        self.losses = self.best = None  # on validation: of each member, and the name of the best member
        if self.has_validation:
            self.losses = selection.member_losses(self.logits("val"), stage_labels(self.data, "val"))
            self.best = self.members[self.losses.index(min(self.losses))].name

    def refuse_other_tests(self) -> None:
        """Raise UserError where the test set that is to be read has images that a member was trained on. A warning
        says where it is not the one that the first member was tested on.
        """
        if self.reads_test:
            records, name = [member.record for member in self.members], "a member of the ensemble"
            refuse_trained_images(trained_images({"members": records}), self.data, ["test"], name)
            for line in differences(records[0]["data"], self.described):
                log.warning("not the data of %s: %s", self.members[0].name, line)

    def logits(self, stage: Stage, used: list[int] | None = None) -> Tensor:
        """Logits [M, N, C] of the members `used`, or of all. Those that are left out see validation images only."""
        everyone = list(range(len(self.members)))
        if stage not in self.stacked:
            saved = [self.members[index].saved for index in (everyone if stage == "val" else used)]
            self.stacked[stage] = stacked_logits(saved, self.data, stage, self.kind, self.device)
        return self.stacked[stage][used or everyone] if stage == "val" else self.stacked[stage]

    def reports(self, combination: Combination) -> list[Report]:
        """Validation first, with all members; then the test set, with those that are used."""
        stages = {"val": list(range(len(self.members)))} if self.has_validation else {}
        if self.reads_test:
            stages["test"] = list(combination.weights)
        reports = []
        for stage, indices in stages.items():
            weights = {self.members[index].name: combination.weights.get(index, 0.0) for index in indices}
            logits, labels = self.logits(stage, indices), stage_labels(self.data, stage)
            reports.append(Report(stage, weights, logits, combination.predict(stage), labels))
        return reports

    def write(self, directory: Path, config: dict[str, Any], results: dict[str, Any]) -> None:
        """Write results.json, with what it depends on, and last config.yaml: a folder without one is no run."""
        origin = {**environment(directory), "data": self.described}
        if self.reads_test:
            results = {**results, "test_reads": count_test_read(origin["data"]["test_hash"], directory)}
        measures = {name: asdict(measure) for name, measure in combine.MEASURES.items()}
        Run(directory).write_results({"status": "finished", **results, "measures": measures, "overrides": [], **origin})
        Run(directory).write_config(config)
        if built_here.is_listed(self.members[0].record["config"]):  # of which the config is a part
            built_here.add(config)


def make_ensemble(session: Session, how: combine.How, select: selection.Select, k: int | None) -> Combination:
    """Choose members on validation, where there is one; the checkpoint has the records and the weights of them all."""
    logits = session.logits("val") if session.has_validation else torch.zeros(len(session.members), 0, 1)
    chosen = selection.selection_weights(select, k, how, logits, stage_labels(session.data, "val")).tolist()
    weights = {index: weight for index, weight in enumerate(chosen) if weight > 0}
    used, shares = list(weights), list(weights.values())
    records = [session.members[index].record for index in used]
    shared = {
        key: records[0][key] for key in ("input_shape", "input_dtype", "columns", "class_names", "split_hash", "data")
    }
    record = {"config": evaluation_config(records[0], "ensemble"), **shared, "members": records}
    record |= {"combine": how, "weights": shares, "tta": session.kind}
    states = [read_checkpoint(session.members[index].path)["state_dict"] for index in used]
    state = {f"network.members.{i}.{name}": value for i, own in enumerate(states) for name, value in own.items()}

    def predict(stage: Stage) -> Tensor:
        return combine.combined(session.logits(stage, used), how, torch.tensor(shares))

    passes = len(used) * VIEWS[session.kind]
    return Combination("ensemble", weights, passes, {"athanor": record, "state_dict": state}, predict)


def make_soup(session: Session, kind: soups.Kind) -> Combination:
    """The mean of the members' weights, whose checkpoint is that of an ordinary classifier.

    Raises UserError where it is not better than the best member alone, and where the members began differently.
    """
    members, losses = session.members, session.losses
    refuse_other_starts(members)
    if losses is None:
        raise UserError("--soup is judged on validation images, and these members have none")
    states = [lambda path=member.path: read_checkpoint(path)["state_dict"] for member in members]
    soup = soups.Soup(load_classifier(members[0].path).to(session.device), states, session.data)
    used, loss = soup.choose(kind, losses)
    if len(used) < 2 or not loss <= min(losses):  # also where it is nan
        reason = f"has a validation loss of {loss:.4f}" if len(used) > 1 else "is no better with any other member"
        raise UserError(
            f"the {kind} soup {reason}; {session.best} alone has {min(losses):.4f}, and nothing is written\n"
            "  leave out --soup for an ensemble"
        )
    weights = dict.fromkeys(sorted(used), 1 / len(used))
    record = members[used[0]].record
    record = {**record, "config": evaluation_config(record, "soup"), "soup": [members[index].name for index in used]}
    record["trained"] = trained_images({"members": [members[index].record for index in used]})
    state = {key: value.cpu() for key, value in soup.classifier.state_dict().items() if not key.startswith("loss.")}
    checkpoint = {"athanor": record, "state_dict": state}
    return Combination("soup", weights, 1, checkpoint, lambda stage: soup.logits(stage).log_softmax(-1))


def evaluation_config(record: dict[str, Any], kind: str) -> dict[str, Any]:
    """The config of a member, changed so that an evaluation gives the numbers of the report: the negative
    log-likelihood, in float32, of the images as they are.
    """
    config = record["config"]
    own = {"name": f"{kind}_{config['name']}", "trainer": {**config["trainer"], "precision": "32-true"}}
    return {**config, **own, "loss": PLAIN_LOSS, "eval": {**config["eval"], "tta": "none"}}
