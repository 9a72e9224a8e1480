import pytest
import torch

from athanor.base.errors import UserError
from athanor.data.split import grouped, latest, stratified


@pytest.fixture
def labels():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 7, (533,), generator=generator)


@pytest.mark.parametrize("parts", [2, 5, 10, 0.1, 0.5])
def test_parts_are_disjoint_and_complete(labels, parts):
    assert torch.equal(torch.cat(stratified(labels, parts, seed=0)).sort().values, torch.arange(len(labels)))


def test_a_fraction_takes_its_share_of_each_class(labels):
    part = labels[stratified(labels, 0.2, seed=0)[1]]
    for label, count in zip(*labels.unique(return_counts=True), strict=True):
        assert (part == label).sum() == round(int(count) * 0.2)


def test_folds_have_equal_shares_of_each_class_and_equal_sizes(labels):
    folds = stratified(labels, 5, seed=0)
    counts = torch.stack([labels[fold].bincount(minlength=7) for fold in folds])
    assert (counts.amax(0) - counts.amin(0)).max() <= 1
    assert max(map(len, folds)) - min(map(len, folds)) <= 1


def test_the_seed_decides_the_split(labels):
    first, again, other = (stratified(labels, 0.2, seed)[1] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_class_of_two_gives_one_to_each_part():
    rest, part = stratified(torch.tensor([0] * 100 + [1, 1]), 0.01, seed=0)
    assert (rest >= 100).sum() == (part >= 100).sum() == 1


@pytest.fixture
def groups():
    """Groups of 1 to 10 of the 533 labels, in no order."""
    generator = torch.Generator().manual_seed(2)
    sizes = torch.randint(1, 11, (150,), generator=generator)
    return torch.arange(150).repeat_interleave(sizes)[:533][torch.randperm(533, generator=generator)] * 7 - 3


@pytest.mark.parametrize("parts", [2, 5, 0.1, 0.5])
def test_a_group_is_in_one_part_and_shares_are_met(labels, groups, parts):
    dealt = grouped(labels, groups, parts, seed=0)
    assert torch.equal(torch.cat(dealt).sort().values, torch.arange(533))
    names = [set(groups[part].tolist()) for part in dealt]
    assert sum(map(len, names)) == len(groups.unique())
    share = 1 / parts if isinstance(parts, int) else parts
    assert len(dealt[-1]) == pytest.approx(533 * share, abs=6)
    for label in labels.unique():
        assert (labels[dealt[-1]] == label).sum() == pytest.approx((labels == label).sum() * share, abs=9)


def test_the_seed_decides_which_groups_of_one_size_go_together(labels):
    groups = torch.arange(533) // 3
    first, again, other = (grouped(labels, groups, 0.2, seed)[1] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_smallest_group_is_validated_on_where_the_fraction_is_smaller():
    rest, part = grouped(torch.zeros(9).long(), torch.tensor([4, 4, 4, 4, 1, 1, 1, 1, 0]), 0.01, seed=0)
    assert part.tolist() == [8] and len(rest) == 8
    with pytest.raises(UserError, match="1 groups of inputs cannot be dealt to 2 parts"):
        grouped(torch.zeros(9).long(), torch.zeros(9).long(), 0.5, seed=0)


def test_the_latest_inputs_are_the_last_part_and_equal_times_stay_together():
    times = torch.tensor([5, 1, 9, 3, 7, 9, 2, 9, 0, 6])
    assert [part.tolist() for part in latest(times, 0.2)] == [[0, 1, 3, 4, 6, 8, 9], [2, 5, 7]]
    assert latest(times.double() / 7, 0.5)[1].tolist() == [2, 4, 5, 7, 9]
    assert latest(torch.tensor([2, 2, 2, 1]), 0.99)[1].tolist() == [0, 1, 2]
    with pytest.raises(UserError, match="the same time"):
        latest(torch.ones(5), 0.5)
