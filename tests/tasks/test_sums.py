"""Sums over an epoch that goes on in other processes than it was begun in."""

import pytest
import torch

from athanor.tasks.sums import EpochSums

CPU = torch.device("cpu")
SAVED = torch.tensor([[6.0, 4.0, 4.0, 3.0], [10.0, 4.0, 4.0, 1.0]])  # loss, weights, inputs and acc of two processes


def resumed(rank, world_size):
    sums = EpochSums({"acc": ()})
    sums.resumed = SAVED.clone()
    sums.resume("train", rank, world_size, CPU)
    assert sums.resumed is None
    return torch.stack(sums.stages["train"])


def test_each_process_goes_on_with_its_own():
    assert torch.equal(torch.stack([resumed(rank, 2) for rank in range(2)]), SAVED)


@pytest.mark.parametrize("world_size", [1, 3, 4])
def test_on_another_number_of_processes_nothing_is_lost_and_nothing_counted_twice(world_size):
    rows = torch.stack([resumed(rank, world_size) for rank in range(world_size)])
    assert torch.equal(rows.sum(0), SAVED.sum(0))
