import dataclasses
import logging

import pytest
import torch
from torch import nn
from torchmetrics.functional.regression import mean_absolute_error, mean_squared_error, r2_score

from athanor.base.errors import UserError
from athanor.tasks.regression import Regression

NAMES = ["length", "year"]


@pytest.fixture
def targets():
    """A length around 1 mm and a year around 2,000: units that differ by a factor of a million."""
    values = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    return values * torch.tensor([1e-4, 20.0]) + torch.tensor([1e-3, 2000.0])


def make(network=None, loss=None, names=NAMES):
    return Regression(network or nn.Identity(), nn.Identity(), loss or nn.MSELoss(), record={"class_names": names})


def test_the_network_works_in_standard_deviations_and_the_task_in_units(targets):
    task = make()
    task.fit_targets(targets)
    torch.testing.assert_close(task.target_mean, targets.double().mean(0).float())
    torch.testing.assert_close(task.target_std, targets.double().std(0, correction=0).float())
    outputs = task(torch.tensor([[0.0, 0.0], [1.0, -1.0]]))
    torch.testing.assert_close(outputs[0], task.target_mean)
    torch.testing.assert_close(outputs[1], task.target_mean + task.target_std * torch.tensor([1.0, -1.0]))
    assert task.loss_of(outputs[:1].expand(400, 2), targets).item() == pytest.approx(1.0, rel=1e-4)  # of guessing
    assert make().load_state_dict(task.state_dict()).missing_keys == []  # a checkpoint has mean and deviation


def test_its_measures_are_those_of_torchmetrics(targets):
    task = make()
    task.fit_targets(targets)
    noise = torch.randn(400, 2, generator=torch.Generator().manual_seed(1)) * task.target_std / 3
    outputs = targets + noise
    parts = [task.sums(outputs[part], targets[part]) for part in (slice(150), slice(150, None))]
    measured = task.measured({name: parts[0][name] + parts[1][name] for name in parts[0]}, 400)
    wide = outputs.double(), targets.double()
    rmse = mean_squared_error(*wide, squared=False, num_outputs=2).mean().item()
    mae = mean_absolute_error(*wide, num_outputs=2).mean().item()
    assert measured["rmse"] == pytest.approx(rmse, rel=1e-4)
    assert measured["mae"] == pytest.approx(mae, rel=1e-4)
    assert measured["r2"] == pytest.approx(r2_score(*(values / task.target_std for values in wide)).item(), abs=1e-4)


def test_one_number_may_be_a_vector_or_class_indices(source):
    task = make(names=["value"])
    assert task.targets_of(torch.zeros(3), torch.tensor([3, 1, 2])).tolist() == [[3.0], [1.0], [2.0]]
    assert Regression.output_names(source, {}) == ["value"]
    numbers = dict(train_targets=torch.zeros(200, 2), test_targets=torch.zeros(60, 2))
    pair = dataclasses.replace(source, **numbers, class_names=("x", "y"))
    assert Regression.output_names(pair, {}) == ("x", "y")
    assert Regression.output_names(dataclasses.replace(pair, class_names=()), {}) == ["value_0", "value_1"]


def test_equal_targets_are_no_nan():
    task = make(names=["value"])
    task.fit_targets(torch.full((10,), 3.0))
    sums = task.sums(torch.full((10, 1), 3.0), torch.full((10, 1), 3.0))
    assert task.measured(sums, 10) == {"rmse": 0.0, "mae": 0.0, "r2": 1.0}


def test_what_it_takes_is_checked(source):
    broken = source.train_targets.float()
    broken[[3, 5]] = torch.nan
    numbers = dict(test_targets=source.test_targets.float(), class_names=())
    with pytest.raises(UserError, match="train_targets has nan or infinite values in 2 of 200 rows"):
        dataclasses.replace(source, train_targets=broken, **numbers)
    matrices = dict(train_targets=torch.zeros(200, 2, 2), test_targets=torch.zeros(60, 2, 2))
    with pytest.raises(UserError, match=r"this data has targets float32 \[200, 2, 2\]"):
        Regression.check_source(dataclasses.replace(source, **matrices))


@pytest.mark.parametrize(("loss", "warns"), [(nn.MSELoss(), True), (nn.L1Loss(), False), (nn.HuberLoss(), False)])
def test_a_squared_loss_is_warned_of_far_targets_and_dropout_at_the_output(loss, warns, caplog):
    network = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    targets = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    with caplog.at_level(logging.WARNING):
        make(network, loss, ["value"]).fit_targets(torch.cat([targets, torch.tensor([100.0])]))
    assert ("1 training targets are more than 6 standard deviations" in caplog.text) is warns
    assert ("dropout just before the output" in caplog.text) is warns
    caplog.clear()
    network[1].p = 0.0
    make(network, loss, ["value"]).fit_targets(targets)
    assert caplog.text == ""
