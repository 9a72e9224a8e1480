import pytest
import torch

from athanor.data.split import stratified


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
