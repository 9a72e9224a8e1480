"""Averages of weights, and the statistics of batch norm that go with them."""

import pytest
import torch
from torch import nn

from athanor.craft.ensembles import soup
from athanor.data.preprocess import Preprocess
from athanor.tasks.classification import Classification


def state(value, count):
    return {"weight": torch.full((2, 2), value), "count": torch.tensor(count)}


def test_weights_are_averaged_and_counters_are_those_of_the_first():
    mean = soup.mean_state(iter([state(1.0, 3), state(2.0, 9), state(6.0, 1)]))
    assert torch.equal(mean["weight"], torch.full((2, 2), 3.0)) and mean["weight"].dtype == torch.float32
    assert mean["count"] == 3


def test_many_small_weights_are_summed_in_float64():
    large = [{"weight": torch.tensor([2.0**24])}, *[{"weight": torch.tensor([1.0])}] * 7]
    assert soup.mean_state(iter(large))["weight"].item() == 2**21 + 1  # in float32 2^24 + 1 is 2^24


def test_the_states_that_are_averaged_stay_what_they_are():
    first = state(1.0, 0)
    soup.mean_state(iter([first, state(5.0, 0)]))
    assert (first["weight"] == 1).all()


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(144, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 4))
    network[2].running_mean.fill_(7.0)
    network[2].num_batches_tracked.fill_(11)
    return Classification(network, Preprocess((3, 6, 8)), nn.CrossEntropyLoss(), record={})


def test_statistics_become_those_of_the_training_images(classifier, make_data):
    data = make_data(batch_size=160)  # all that are trained on, at once
    soup.renew_statistics(classifier, data)
    norm = classifier.network[2]
    with torch.no_grad():
        seen = classifier.network[1](data.source.train_inputs[data.train_index].flatten(1).float() / 255)
    torch.testing.assert_close(norm.running_mean, seen.mean(0))
    torch.testing.assert_close(norm.running_var, seen.var(0))


def test_statistics_are_the_mean_over_all_batches_alike(classifier, make_data):
    data = make_data(batch_size=16)
    soup.renew_statistics(classifier, data)
    with torch.no_grad():
        seen = classifier.network[1](data.source.train_inputs[data.train_index].flatten(1).float() / 255)
    torch.testing.assert_close(classifier.network[2].running_mean, seen.mean(0))  # 10 whole batches, with no decay


def test_afterwards_nothing_but_the_statistics_is_another(classifier, make_data):
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    soup.renew_statistics(classifier, make_data())
    differing = [name for name, value in classifier.state_dict().items() if not torch.equal(value, before[name])]
    assert differing == ["network.2.running_mean", "network.2.running_var"]
    assert classifier.network[2].momentum == 0.1
    assert all(module.training for module in classifier.modules())


def test_dropout_draws_nothing_meanwhile(classifier, make_data):
    modes = []
    classifier.network[3].register_forward_hook(lambda module, *_: modes.append(module.training))
    classifier.train()
    soup.renew_statistics(classifier, make_data())
    assert modes and not any(modes)
