import re

import numpy as np
import pytest
import torch

from athanor.base.errors import UserError
from athanor.data.augmentation.mixing import Mixing, cutmix, mixup

COUNT = 64


def batch(dtype=torch.uint8):
    images = torch.randint(0, 200, (COUNT, 3, 8, 10), generator=torch.Generator().manual_seed(0)).to(dtype)
    return images, torch.arange(COUNT) % 5


def mixed(mixing, seed=0, of=None):
    images, targets = of or batch()
    return mixing((images, targets), (images.flip(0), targets.flip(0)), seed, len(images), 0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.uint16])
def test_mixup_is_the_weighted_mean_of_two_images_and_of_their_classes(dtype):
    images, targets = batch(dtype)
    changed, shares = mixed(Mixing(0.4, 0, 5), of=(images, targets))
    assert (changed.dtype, shares.shape) == (dtype, (COUNT, 5))
    torch.testing.assert_close(shares.sum(1), torch.ones(COUNT))
    seen = []
    for i in range(COUNT):
        same = targets[i] == targets[COUNT - 1 - i]
        share = shares[i, targets[i]].item()
        if not same:
            expected = share * images[i].double() + (1 - share) * images[COUNT - 1 - i].double()
            assert (changed[i].double() - expected).abs().max() <= (1e-4 if dtype == torch.float32 else 0.501)
            assert shares[i, targets[COUNT - 1 - i]].item() == pytest.approx(1 - share, abs=1e-6)
            seen.append(share)
    assert len(set(seen)) == len(seen) > 40  # each image has its own


def test_cutmix_shows_a_rectangle_of_the_other_image_and_the_classes_have_the_shares_of_the_area():
    ones, twos = torch.ones(COUNT, 3, 20, 30, dtype=torch.uint8), torch.full((COUNT, 3, 20, 30), 2, dtype=torch.uint8)
    share = torch.linspace(0, 1, COUNT)
    centre = torch.rand(COUNT, 2, generator=torch.Generator().manual_seed(0))
    changed, left = cutmix(ones, twos, share, centre)
    for image, stays, wanted in zip(changed, left.tolist(), share.tolist(), strict=True):
        hole = image[0] == 2
        assert (image == image[0]).all()
        assert stays == pytest.approx(1 - hole.float().mean().item(), abs=1e-6)
        rows, columns = hole.any(1).nonzero().flatten(), hole.any(0).nonzero().flatten()
        if len(rows):
            assert hole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()  # a rectangle, and whole
            side = (1 - wanted) ** 0.5
            assert len(rows) <= side * 20 + 1 and len(columns) <= side * 30 + 1
    middle, _ = cutmix(ones[:1], twos[:1], torch.tensor([0.75]), torch.tensor([[0.5, 0.5]]))
    assert (middle[0, 0] == 2).nonzero().aminmax(dim=0).min.tolist() == [5, 8]  # half of the height and of the width


def test_shares_are_of_the_beta_distribution_of_alpha():
    images, targets = torch.zeros(4000, 1, 1, 1), torch.arange(4000) % 2
    _, shares = mixed(Mixing(0.2, 0, 2), of=(images, targets))
    share = shares[torch.arange(4000), targets].double().numpy()
    expected = np.random.default_rng(5).beta(0.2, 0.2, 4000)
    for quantile in 0.1, 0.25, 0.5, 0.75, 0.9:
        assert abs(np.quantile(share, quantile) - np.quantile(expected, quantile)) < 0.08
    assert abs(share.var() - 0.25 / 1.4) < 0.01  # of Beta(a, a): 1 / (4 (2a + 1))


def test_with_both_a_batch_has_one_of_them_half_of_the_time_each():
    other = 0
    for seed in range(200):
        images = batch()[0]
        changed, _ = mixed(Mixing(1, 1, 5), seed)
        whole = (changed == images) | (changed == images.flip(0))
        other += not whole.all()
    assert 70 < other < 130


@pytest.mark.parametrize("mixing", [Mixing(0.4, 0, 5), Mixing(0, 1, 5), Mixing(1, 1, 5)], ids=str)
def test_the_seed_decides_and_the_parts_of_a_batch_are_those_of_the_whole(mixing):
    images, targets = batch()
    whole = mixed(mixing)
    others = images.flip(0), targets.flip(0)
    parts = [
        mixing((images[part], targets[part]), (others[0][part], others[1][part]), 0, COUNT, part.start)
        for part in (slice(0, 16), slice(16, 64))
    ]
    for i in 0, 1:
        assert torch.equal(torch.cat([part[i] for part in parts]), whole[i])
        assert torch.equal(mixed(mixing)[i], whole[i])
        assert not torch.equal(mixed(mixing, seed=1)[i], whole[i])


def test_probabilities_of_a_teacher_are_mixed_like_classes():
    images, targets = batch()
    soft = torch.nn.functional.one_hot(targets, 5).float()
    for hard, other in zip(mixed(Mixing(0.4, 0, 5)), mixed(Mixing(0.4, 0, 5), of=(images, soft)), strict=True):
        assert torch.equal(hard, other)


def test_mixup_takes_feature_vectors():
    vectors = torch.randn(COUNT, 7)
    changed, _ = mixed(Mixing(1, 0, 5), of=(vectors, torch.arange(COUNT) % 5))
    assert changed.shape == vectors.shape and not torch.equal(changed, vectors)
    assert torch.equal(mixup(vectors, vectors.flip(0), torch.ones(COUNT)), vectors)


@pytest.mark.parametrize(
    "mixing, inputs, targets, message",
    [
        (Mixing(1, 0, 0), torch.zeros(4, 3), torch.zeros(4).long(), "data.mixup mixes classes, and the targets"),
        (Mixing(1, 0, 2), torch.zeros(4, 3), torch.zeros(4), "data.mixup mixes classes, and the targets"),
        (Mixing(0, 1, 2), torch.zeros(4, 3), torch.zeros(4, 2).long(), "data.cutmix mixes classes, and the targets"),
        (Mixing(1, 0, 2), torch.zeros(4, 3).long(), torch.zeros(4).long(), "data.mixup mixes pictures and features"),
        (
            Mixing(0, 1, 2),
            torch.zeros(4, 3),
            torch.zeros(4).long(),
            "data.cutmix takes pictures, and this data has inputs",
        ),
    ],
)
def test_what_cannot_be_mixed_is_refused(mixing, inputs, targets, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        mixing.check(inputs, targets)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_negative_values_are_refused(name):
    with pytest.raises(UserError, match=rf"^data\.{name}=-1 is negative; use 0 to switch it off"):
        Mixing(**{"mixup": 0, "cutmix": 0, name: -1}, num_classes=2)
