import dataclasses
import math

import pytest
import torch
from torch import nn
from torchmetrics.functional.classification import multilabel_average_precision, multilabel_f1_score

from athanor.base.errors import UserError
from athanor.tasks.attributes import Attributes, AveragePrecision
from athanor.tasks.losses import OneVsAll

NAMES = ["round", "red", "striped"]


@pytest.fixture
def task():
    return Attributes(nn.Identity(), nn.Identity(), OneVsAll("logistic"), record={"class_names": NAMES})


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 3, generator=generator)
    return logits, (torch.rand(50, 3, generator=generator) < 0.3).float()


def test_the_losses_are_those_of_binary_classifiers_summed_over_attributes(batch):
    logits, targets = (tensor.double() for tensor in batch)
    probability = 1 / (1 + (-logits).exp())
    logistic = -(targets * probability.log() + (1 - targets) * (1 - probability).log()).sum(1).mean()
    torch.testing.assert_close(OneVsAll("logistic")(logits, targets), logistic, rtol=1e-12, atol=0)
    hinge = torch.where(targets == 1, (1 - logits).clamp_min(0), (1 + logits).clamp_min(0)).sum(1).mean()
    torch.testing.assert_close(OneVsAll("hinge")(logits, targets), hinge, rtol=1e-12, atol=0)


def test_its_measures_over_two_batches_are_those_of_torchmetrics(task, batch):
    logits, targets = batch
    parts = [task.sums(logits[part], targets[part]) for part in (slice(20), slice(20, None))]
    measured = task.measured({name: (parts[0][name] + parts[1][name]).float() for name in parts[0]}, 50)
    f1 = multilabel_f1_score(logits.sigmoid(), targets.long(), 3, average="macro").item()
    assert measured["f1"] == pytest.approx(f1, rel=1e-6)
    assert measured["acc"] == pytest.approx(((logits > 0) == (targets == 1)).float().mean().item(), rel=1e-6)
    metric = AveragePrecision(3)
    metric.update(*batch)
    expected = multilabel_average_precision(logits.sigmoid(), targets.long(), 3)
    torch.testing.assert_close(metric.compute(), expected)


def test_an_attribute_that_does_not_occur_is_no_nan(task):
    nothing = torch.zeros(4, 3)
    sums = {name: total.float() for name, total in task.sums(nothing - 1, nothing).items()}
    assert task.measured(sums, 4) == {"acc": 1.0, "f1": 0.0}
    nothing[:, 0] = 1
    sums = {name: total.float() for name, total in task.sums(2 * nothing - 1, nothing).items()}
    assert task.measured(sums, 4) == {"acc": 1.0, "f1": 1.0}


def test_class_indices_are_one_attribute_each(task):
    expected = torch.tensor([[0.0, 0, 1], [1, 0, 0]])
    assert torch.equal(task.targets_of(torch.zeros(2), torch.tensor([2, 0])), expected)
    assert torch.equal(task.targets_of(torch.zeros(2), expected.bool()), expected)
    assert task.loss_of_guessing == pytest.approx(3 * math.log(2))


def test_a_prediction_names_what_is_there(task):
    line, cells = task.described(torch.tensor([0.93, 0.4, 0.81]))
    assert line == "round 93.00%  striped 81.00%"
    assert cells == [("round", "0.930000"), ("red", "0.400000"), ("striped", "0.810000")]
    assert task.described(torch.tensor([0.1, 0.4, 0.2]))[0] == "no attribute"


def test_what_it_takes_is_checked(source):
    Attributes.check_source(source)  # class indices
    half = torch.full((200, 2), 0.5)
    multi = dataclasses.replace(
        source, train_targets=torch.ones(200, 2), test_targets=torch.ones(60, 2), class_names=()
    )
    Attributes.check_source(multi)
    assert Attributes.output_names(multi, {}) == ["attribute_0", "attribute_1"]
    with pytest.raises(UserError, match=r"takes targets of 0 and 1, \[N, attributes\], and this data has float32"):
        Attributes.check_source(dataclasses.replace(multi, train_targets=half))
    with pytest.raises(UserError, match="2 attributes, 4 names of classes"):
        Attributes.check_source(dataclasses.replace(multi, class_names=source.class_names))
