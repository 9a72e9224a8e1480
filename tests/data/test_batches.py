import dataclasses
import hashlib

import pytest
import torch

from athanor.data.augmentation.augment import Augment
from athanor.data.augmentation.mixing import Mixing
from athanor.data.augmentation.own_augment import OwnAugment
from athanor.data.batches import EvalBatches, TrainBatches

INDEX = torch.arange(100)[torch.arange(100) % 3 > 0]  # 66 of 100 images
EVERYTHING = Augment(crop=1, padding_mode="zeros", flip=True, cutout=2, shift=1, rotate=15)
NOTHING = Augment(0, "zeros", False, 0, 0, 0)
ALTERNATING = Augment(crop=0, padding_mode="zeros", flip="alternating", cutout=0, shift=0, rotate=0)
NEW = Augment(
    **{"crop": 1, "padding_mode": "zeros", "flip": True, "cutout": 2, "shift": 1, "rotate": 15},
    **{"resized_crop": [0.3, 1], "brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1, "randaugment": 2},
)
ALL_AND_ALTERNATING = Augment(crop=2, padding_mode="reflect", flip="alternating", cutout=2, shift=1, rotate=15)


def batches(augment=NOTHING, position=(0, 0), seed=0, **knobs):
    """Batches of images whose first pixel and label are their number."""
    images = torch.randint(0, 256, (100, 1, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[:, 0, 0, 0] = torch.arange(100)
    settings = dict(batch_size=8, seed=seed, augment=augment, position=lambda: position) | knobs
    return TrainBatches(images, torch.arange(100), INDEX, **settings)


def order(batches):
    return torch.cat([labels for _, labels in batches])


def mirrored(epoch, count=2000, **knobs):
    """Which images alternating flip mirrors in an epoch that shows all, by their number."""
    same = torch.arange(2, dtype=torch.uint8).view(1, 1, 1, 2).repeat(count, 1, 1, 1)
    numbers = torch.arange(count)
    settings = dict(index=numbers, batch_size=50, seed=0, augment=ALTERNATING, position=lambda: (epoch, 0)) | knobs
    flips = torch.full((count,), 2)
    for images, labels in TrainBatches(same, numbers, **settings):
        flips[labels] = images[:, 0, 0, 0].long()  # the left pixel is 1 in a mirror image
    return flips


def assert_equal(batches_seen, expected):
    for (images, labels), (other_images, other_labels) in zip(batches_seen, expected, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


def test_an_epoch_shows_each_image_at_most_once_and_drops_only_the_last_partial_batch():
    seen = order(batches())
    assert len(batches()) == 8
    assert len(seen) == len(seen.unique()) == 64
    assert set(seen.tolist()) < set(INDEX.tolist())


def test_images_come_with_their_labels():
    for images, labels in batches():
        assert len(images) == 8
        assert images[:, 0, 0, 0].tolist() == labels.tolist()


def test_the_order_is_a_function_of_seed_and_epoch():
    first = order(batches(position=(3, 0), seed=5))
    assert torch.equal(order(batches(position=(3, 0), seed=5)), first)
    assert not torch.equal(order(batches(position=(4, 0), seed=5)), first)
    assert not torch.equal(order(batches(position=(3, 0), seed=6)), first)
    assert not torch.equal(first, first.sort().values)


def test_the_global_generator_does_not_matter_and_is_not_moved():
    before = torch.get_rng_state()
    first = list(batches(EVERYTHING))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert_equal(batches(EVERYTHING), first)


AS_BEFORE = {  # hashes of the batches that these settings gave before there were others
    "crop=0": "580973e28a963147",
    "crop=2": "c55f8657baf0a3b4",
    "crop=2 padding_mode=reflect": "8a2ed0cb57426711",
    "flip=True": "5bffc21740963fe8",
    "flip=alternating": "d231a8dd9f0107e2",
    "cutout=3": "47abcb1320c0d8ae",
    "shift=1.5 rotate=20": "1a07192428001d04",
    "crop=2 flip=True cutout=3 shift=1.5 rotate=20": "defd592fd41f7e80",
}


@pytest.mark.parametrize("words", AS_BEFORE)
def test_without_the_newer_options_the_batches_are_those_from_before_they_came(words):
    given = dict(word.split("=") for word in words.split())
    texts = {
        key: value if key == "padding_mode" or value == "alternating" else eval(value) for key, value in given.items()
    }
    augment = Augment(**dict(crop=0, padding_mode="zeros", flip=False, cutout=0, shift=0, rotate=0) | texts)
    images = torch.randint(0, 256, (60, 3, 8, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    fixed = images, torch.arange(60), torch.arange(50), 12, 7, augment, lambda: (3, 1)
    digest = hashlib.sha256()
    for views in 1, 2:
        for rank, world_size in (0, 1), (1, 2):
            for batch, targets in TrainBatches(*fixed, rank, world_size, views, Mixing(0, 0, 60)):
                digest.update(batch.numpy().tobytes() + targets.numpy().tobytes())
    assert digest.hexdigest()[:16] == AS_BEFORE[words]


def speckled(images):
    """One's own, with the global generator."""
    return images + torch.randint(0, 4, images.shape).byte()


MIXED = [Mixing(0.4, 0, 100), Mixing(0, 1, 100), Mixing(1, 1, 100)]


@pytest.mark.parametrize("mixing", MIXED, ids=str)
@pytest.mark.parametrize("per_image", [None, True])
def test_all_that_is_random_goes_on_in_mid_epoch_bit_for_bit(mixing, per_image):
    augment = NEW if per_image is None else OwnAugment(speckled, "speckled", per_image)
    knobs = dict(images=colourful(), mixing=mixing)
    whole = list(dataclasses.replace(batches(augment, position=(2, 0)), **knobs))
    assert_equal(dataclasses.replace(batches(augment, position=(2, 5)), **knobs), whole[5:])
    assert all(torch.allclose(targets.sum(1), torch.ones(8)) for _, targets in whole)
    assert any((targets.amax(1) < 0.99).any() for _, targets in whole)


@pytest.mark.parametrize("mixing", MIXED, ids=str)
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_mixed_batches_do_not_depend_on_the_number_of_processes(world_size, own, mixing):
    augment = OwnAugment(speckled, "speckled", per_image=True) if own else NEW
    whole = dataclasses.replace(batches(augment), images=colourful(), mixing=mixing)
    ranks = [dataclasses.replace(whole, rank=rank, world_size=world_size) for rank in range(world_size)]
    together = [tuple(map(torch.cat, zip(*parts, strict=True))) for parts in zip(*ranks, strict=True)]
    assert_equal(together, whole)


def test_processes_draw_other_numbers_for_ones_own_augmentation_of_batches():
    whole = dataclasses.replace(
        batches(OwnAugment(speckled, "speckled")), images=torch.zeros(100, 3, 6, 6, dtype=torch.uint8)
    )
    first, second = (next(iter(dataclasses.replace(whole, rank=rank, world_size=2)))[0] for rank in (0, 1))
    assert not torch.equal(first, second)


def colourful():
    return torch.randint(0, 256, (100, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("augment", [EVERYTHING, ALL_AND_ALTERNATING], ids=["random", "alternating"])
@pytest.mark.parametrize("epoch, done", [(2, 1), (2, 5), (3, 5), (2, 8)])
def test_resuming_in_mid_epoch_gives_the_remaining_batches_bit_for_bit(epoch, done, augment):
    whole = list(batches(augment, position=(epoch, 0)))
    assert_equal(batches(augment, position=(epoch, done)), whole[done:])


def test_augmentation_differs_between_epochs_and_steps():
    images = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).repeat(100, 1, 1, 1)
    knobs = dict(images=images, targets=torch.zeros(100).long(), index=INDEX, batch_size=8, seed=0, augment=EVERYTHING)
    seen = [images for epoch in (0, 1) for images, _ in TrainBatches(**knobs, position=lambda e=epoch: (e, 0))]
    assert len(torch.stack(seen).unique(dim=0)) == 16


def test_alternating_flip_shows_each_image_both_ways_in_every_two_epochs():
    epochs = [mirrored(epoch) for epoch in range(4)]
    assert torch.equal(epochs[0] + epochs[1], torch.ones(2000).long())
    assert torch.equal(epochs[1] + epochs[2], torch.ones(2000).long())
    assert torch.equal(epochs[0], epochs[2]) and torch.equal(epochs[1], epochs[3])


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_alternating_flip_mirrors_about_half_of_the_images_in_each_epoch(seed):
    assert 900 < mirrored(0, seed=seed).sum() < 1100
    assert 900 < mirrored(1, seed=seed).sum() < 1100


def test_alternating_flip_draws_another_half_for_each_seed():
    halves = [mirrored(0, seed=seed) for seed in range(4)]
    for i, half in enumerate(halves):
        assert torch.equal(mirrored(0, seed=i), half)
        for other in halves[:i]:
            assert 900 < (half == other).sum() < 1100  # independent of each other


def test_alternating_flip_has_nothing_to_do_with_the_order_of_the_images():
    shown = torch.cat([labels for _, labels in batches(ALTERNATING, batch_size=1)])
    first = mirrored(0, count=100)[shown][:32].sum()
    assert 4 < first < 28
    some = torch.arange(2000)[::2]
    assert torch.equal(mirrored(0, index=some)[some], mirrored(0)[some])  # the split does not matter either


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("augment", [EVERYTHING, ALL_AND_ALTERNATING], ids=["random", "alternating"])
@pytest.mark.parametrize("world_size", [2, 4])
def test_the_ranks_together_give_the_batches_of_one_process(world_size, augment, epoch):
    whole = batches(augment, position=(epoch, 0))
    ranks = [dataclasses.replace(whole, rank=rank, world_size=world_size) for rank in range(world_size)]
    together = [tuple(map(torch.cat, zip(*parts, strict=True))) for parts in zip(*ranks, strict=True)]
    assert_equal(together, whole)
    assert {len(rank) for rank in ranks} == {8}


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("batch_size", [5, 64, 512])
def test_evaluation_shows_every_image_exactly_once_over_all_ranks(world_size, batch_size):
    whole = batches()
    ranks = [
        EvalBatches(whole.images, whole.targets, INDEX, batch_size, rank, world_size) for rank in range(world_size)
    ]
    seen = [batch for rank in ranks for batch in rank]
    assert torch.cat([labels for _, labels in seen]).sort().values.tolist() == INDEX.tolist()
    assert all(torch.equal(images[:, 0, 0, 0], labels) for images, labels in seen)
    assert [len(rank) for rank in ranks] == [len(list(rank)) for rank in ranks]
    assert max(len(labels) for _, labels in seen) <= batch_size
    if world_size == 1:
        assert order(ranks[0]).tolist() == INDEX.tolist()  # in order, so that predictions can be told apart
