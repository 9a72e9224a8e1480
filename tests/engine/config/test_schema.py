"""A group of the config is one row in schema.py: whatever checks, records, trusts, builds or compares knows it then."""

import dataclasses

import pytest
import torch

from athanor.base.errors import UserError
from athanor.engine.config import assemble, schema, trust
from athanor.engine.runs.run import Run

CODE = """
from torch import nn
from athanor.tasks.classification import Classification

class Tax(nn.Module):
    def __init__(self, strength: float, num_classes: int):
        super().__init__()
        self.strength, self.num_classes = strength, num_classes

class Taxed(Classification):
    def __init__(self, *parts, penalty, **settings):
        super().__init__(*parts, **settings)
        self.penalty = penalty
"""


@pytest.fixture
def penalty(tmp_path, monkeypatch, trusting):
    """A group `penalty` with one option: a row, a YAML and a class; the task takes what is built from it."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "tax.py").write_text(CODE)
    (tmp_path / "configs" / "penalty").mkdir(parents=True)
    (tmp_path / "configs" / "penalty" / "tax.yaml").write_text("_target_: tax.Tax\nstrength: 0.5\n")
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    row = dataclasses.replace(schema.GROUPS["loss"], what="a penalty", recorded=None)
    monkeypatch.setitem(schema.GROUPS, "penalty", row)
    trusting("tax")
    words = ["+penalty=tax", "task._target_=tax.Taxed", "model=linear", "data.limit=100"]
    return ("--config-dir", tmp_path / "configs", *words)


def test_a_new_group_is_checked_recorded_trusted_built_and_compared(penalty, train, tmp_path):
    ran = train(*penalty, "trainer.max_epochs=1", "hydra.run.dir=run", "penalty.strength=2.0")
    assert (ran.code, ran.err) == (0, "")
    run = Run(tmp_path / "run")
    assert run.config["penalty"] == {"_target_": "tax.Tax", "strength": 2.0}
    assert run.trusted_config["penalty"]["strength"] == 2.0
    assert (run.classifier().penalty.strength, run.classifier().penalty.num_classes) == (2.0, 10)
    assert assemble.parameters(run.config)["penalty.strength"] == 2.0


def test_mistakes_in_a_new_group_are_told_like_those_of_others(penalty, train):
    assert "penalty.strength=high: Tax takes float" in train(*penalty, "penalty.strength=high").err
    assert "penalty.width: Tax has no 'width'" in train(*penalty, "+penalty.width=1").err


def test_a_file_may_build_only_what_the_row_allows(penalty):
    trust.check_targets({"penalty": {"_target_": "tax.Tax"}})
    with pytest.raises(UserError, match="may not build from there"):
        trust.check_targets({"penalty": {"_target_": "torch.hub.load"}})


def test_without_its_row_a_group_is_unknown(penalty, train, monkeypatch):
    monkeypatch.delitem(schema.GROUPS, "penalty")
    assert "penalty: train.yaml has no 'penalty'" in train(*penalty).err


def test_the_rebuilt_part_is_enough_for_a_classifier(make_classifier_config):
    record = {
        "config": schema.rebuilt_part(make_classifier_config),
        "input_shape": [1, 8, 8],
        "class_names": ["a", "b"],
    }
    assert assemble.from_record(record)(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape == (2, 2)


@pytest.fixture
def make_classifier_config(compose):
    from athanor.engine.config.check import plain

    return plain(compose("model=linear"))
