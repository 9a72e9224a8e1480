import pytest
import torch
from torch import nn

from athanor.models import batch_norm


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Sequential(nn.BatchNorm1d(3, momentum=0.3)))
    network(torch.randn(8, 3))
    network[2].eval()  # as a person may freeze a part
    return network


def test_the_statistics_become_the_plain_mean_over_the_batches_that_are_shown(network):
    batches = torch.randn(4, 16, 3)
    with batch_norm.new_statistics(network) as norms:
        for batch in batches:
            network(batch)
    assert list(norms) == ["0", "2.0"]
    torch.testing.assert_close(network[0].running_mean, batches.mean((0, 1)))
    torch.testing.assert_close(network[0].running_var, batches.var(1).mean(0))


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_only_batch_norm_trains_and_its_settings_come_back_whatever_happens(network, error):
    before = [(norm.momentum, norm.num_batches_tracked.item()) for norm in (network[0], network[2][0])]
    try:
        with batch_norm.new_statistics(network):
            assert [module.training for module in network.modules()] == [False, True, False, False, True]
            network(torch.randn(8, 3))
            if error:
                raise error
    except KeyboardInterrupt:
        pass
    assert [module.training for module in network.modules()] == [True, True, True, False, False]
    assert [(norm.momentum, norm.num_batches_tracked.item()) for norm in (network[0], network[2][0])] == before


def test_layers_that_keep_no_statistics_are_left_out():
    network = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.GroupNorm(1, 3), nn.InstanceNorm2d(3))
    with batch_norm.new_statistics(network) as norms:
        assert norms == {}
