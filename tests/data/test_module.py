from dataclasses import replace
from types import SimpleNamespace

import lightning.pytorch as L
import pytest
import torch

from athanor.base.errors import UserError
from athanor.data.augmentation.augment import Augment


def of_world_size(data, world_size):
    data.trainer = SimpleNamespace(world_size=world_size)
    return data


@pytest.mark.parametrize("knobs", [{}, {"val_fraction": 0.5}, {"val_fraction": 0}, {"folds": 5, "fold": 2}], ids=str)
def test_train_and_validation_are_disjoint_and_complete_and_the_test_set_is_untouched(make_data, knobs):
    data = make_data(**knobs)
    together = torch.cat([data.train_index, data.val_index])
    assert together.sort().values.tolist() == list(range(200))
    assert data.test_index.tolist() == list(range(60))


def test_each_class_gives_its_share_to_validation(make_data):
    data = make_data(val_fraction=0.25)
    labels = data.source.train_targets
    assert labels[data.val_index].bincount().tolist() == [round(n / 4) for n in labels.bincount().tolist()]


def test_the_split_depends_on_split_seed_and_not_on_seed(make_data):
    data, of_another_run, other = make_data(seed=0), make_data(seed=1), make_data(split_seed=1)
    assert torch.equal(data.val_index, of_another_run.val_index)
    assert data.split_hash == of_another_run.split_hash
    assert not torch.equal(data.val_index, other.val_index)
    assert data.split_hash != other.split_hash


def test_the_hash_names_the_images_that_are_trained_on_and_their_labels(make_data, source):
    hashes = [make_data(**knobs).split_hash for knobs in ({}, {"val_fraction": 0.1}, {"limit": 100}, {"folds": 5})]
    labels = source.train_targets.clone()
    labels[0] = (labels[0] + 1) % 4
    # with no validation the indices are the same whatever the labels are
    relabelled = replace(source, train_targets=labels)
    hashes += [make_data(val_fraction=0, source=s).split_hash for s in (source, relabelled)]
    assert len(set(hashes)) == len(hashes)
    assert make_data(batch_size=8, augment=Augment(2, "zeros", True, 0, 0, 0)).split_hash == hashes[0]


@pytest.mark.parametrize("folds", [2, 3, 10])
def test_the_folds_partition_the_training_images(make_data, folds):
    parts = [make_data(folds=folds, fold=fold).val_index for fold in range(folds)]
    assert torch.cat(parts).sort().values.tolist() == list(range(200))
    assert {len(part) for part in parts} <= {200 // folds, 200 // folds + 1}


def test_a_limit_keeps_every_class_in_all_parts(make_data):
    data = make_data(limit=40, batch_size=4)
    assert len(data.train_index) + len(data.val_index) == pytest.approx(40, abs=2)
    assert len(data.test_index) == pytest.approx(40, abs=2)
    train, test = data.source.train_targets, data.source.test_targets
    parts = [train[data.train_index], train[data.val_index], test[data.test_index]]
    assert all(len(labels.unique()) == 4 for labels in parts)
    assert not set(data.train_index.tolist()) & set(data.val_index.tolist())


def test_a_limit_above_the_number_of_images_keeps_all(make_data):
    assert len(make_data(limit=10_000).train_index) == len(make_data().train_index)


@pytest.mark.parametrize(
    "knobs, message",
    [
        ({"batch_size": 161}, r"data\.batch_size=161 does not fit 160 training images; use 1 to 160, or full"),
        ({"batch_size": 0}, r"data\.batch_size=0 does not fit 160 training images; use 1 to 160"),
        ({"batch_size": -8}, r"data\.batch_size=-8 does not fit"),
        ({"eval_batch_size": 0}, r"data\.eval_batch_size=0"),
        ({"val_fraction": 1}, r"data\.val_fraction=1 is not a fraction; use 0 \(no validation\) to below 1"),
        ({"val_fraction": -0.1}, r"data\.val_fraction=-0\.1 is not a fraction"),
        ({"folds": 5, "fold": 5}, r"data\.folds=5 data\.fold=5: use 2 or more folds and a fold from 0 to folds-1"),
        ({"folds": 5, "fold": -1}, r"data\.fold=-1: use 2 or more folds"),
        ({"folds": 1}, r"data\.folds=1 data\.fold=0: use 2 or more folds"),
        ({"limit": 7}, r"data\.limit=7 is too few for 4 classes; use at least two a class"),
        ({"limit": 0}, r"data\.limit=0 is too few"),
    ],
    ids=str,
)
def test_wrong_knobs_are_refused_with_what_is_allowed(make_data, knobs, message):
    with pytest.raises(UserError, match=message):
        make_data(**knobs)


@pytest.mark.parametrize("crop", [6, 7, 20])
def test_a_crop_that_mirrors_more_than_the_image_has_is_refused(make_data, crop):
    message = (
        rf"^data\.augment\.crop={crop} mirrors more than images of 8x6 have; "
        r"use a smaller crop, or data\.augment\.padding_mode=zeros$"
    )
    with pytest.raises(UserError, match=message):
        make_data(augment=Augment(crop, "reflect", False, 0, 0, 0))
    make_data(augment=Augment(crop, "zeros", False, 0, 0, 0))


def test_the_largest_crop_that_can_be_mirrored_works(make_data, make_trainer):
    data = make_data(augment=Augment(5, "reflect", False, 0, 0, 0))
    data.trainer = make_trainer()
    assert {images.shape for images, _ in data.train_dataloader()} == {(16, 3, 6, 8)}


def test_a_batch_that_does_not_divide_over_the_devices_is_refused(make_data):
    of_world_size(make_data(batch_size=16), 4).setup("fit")
    with pytest.raises(UserError, match=r"data\.batch_size=16 does not divide over 3 devices; use a multiple of 3"):
        of_world_size(make_data(batch_size=16), 3).setup("fit")


def test_full_means_all_training_images_in_one_batch(make_data):
    assert make_data(batch_size="full").batch_size == 160


def test_the_hole_of_cutout_has_the_mean_colour_of_the_training_images(make_data, source):
    images = source.train_inputs.clone()
    cutout = Augment(0, "zeros", False, 4, 0, 0)
    data = make_data(source=replace(source, train_inputs=images), augment=cutout)
    expected = images[data.train_index].float().mean((0, 2, 3))
    assert (data.augment.mean.flatten() - expected).abs().max() <= 1
    images[data.val_index] = 255
    again = make_data(source=replace(source, train_inputs=images), augment=Augment(0, "zeros", False, 4, 0, 0))
    assert torch.equal(again.augment.mean, data.augment.mean)


def test_the_mean_colour_is_that_of_all_classes_where_the_images_are_sorted_by_class(make_data, source):
    images = torch.zeros(30_000, 1, 1, 1, dtype=torch.uint8)
    images[15_000:] = 200
    labels = (images.flatten() > 0).long()
    sorted_source = replace(source, train_inputs=images, train_targets=labels, test_inputs=images[:60])
    data = make_data(source=sorted_source, augment=Augment(0, "zeros", False, 4, 0, 0))
    assert data.augment.mean.item() == pytest.approx(100, abs=1)


def test_a_trainer_sees_the_batches_of_each_epoch_and_the_images_of_each_part(make_data, make_trainer):
    seen = {}

    class Watch(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def training_step(self, batch, batch_idx):
            seen.setdefault(self.current_epoch, []).append(batch[1])
            return self.weight

        def validation_step(self, batch, batch_idx):
            seen.setdefault("val", []).append(batch[1])

        def test_step(self, batch, batch_idx):
            seen.setdefault("test", []).append(batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    data, trainer = make_data(seed=3), make_trainer(max_epochs=2, check_val_every_n_epoch=2)
    trainer.fit(Watch(), data)
    trainer.test(Watch(), data, verbose=False)
    for epoch in 0, 1:
        batches = data.train_dataloader()
        batches.position = lambda epoch=epoch: (epoch, 0)
        assert torch.equal(torch.cat(seen[epoch]), torch.cat([labels for _, labels in batches]))
    assert torch.equal(torch.cat(seen["val"]), data.source.train_targets[data.val_index])
    assert torch.equal(torch.cat(seen["test"]), data.source.test_targets)


def test_without_validation_images_the_validation_loader_is_empty(make_data, make_trainer):
    data = make_data(val_fraction=0)
    data.trainer = make_trainer()
    assert list(data.val_dataloader()) == []
    assert len(data.train_dataloader().index) == 200


def test_batches_are_there_without_a_trainer(make_data):
    data = make_data(augment=Augment(0, "zeros", True, 0, 0, 0))
    images, targets = next(iter(data.train_dataloader()))
    assert (images.shape, targets.shape) == ((16, 3, 6, 8), (16,))
    assert sum(len(batch[1]) for batch in data.val_dataloader()) == len(data.val_index)
    assert sum(len(batch[1]) for batch in data.test_dataloader()) == 60


@pytest.mark.parametrize("views", [1, 2])
def test_it_shows_images_before_and_after_augmentation_with_their_classes(make_data, views):
    data = make_data(augment=Augment(0, "zeros", False, 0, 2.0, 0), views=views)
    figure = data.show(count=4)
    axes = figure.get_axes()
    assert len(axes) == 4 * (1 + views)
    images, targets = next(iter(data.train_dataloader()))
    assert [axis.get_title() for axis in axes[:4]] == [data.class_names[target] for target in targets[:4]]
    shown = torch.from_numpy(axes[4].get_images()[0].get_array().data)
    assert torch.equal(shown, images[0].permute(1, 2, 0))


@pytest.fixture
def with_own_validation(source):
    return replace(source, val_inputs=source.test_inputs[:20] + 1, val_targets=source.test_targets[:20])


def test_an_official_validation_set_is_used_and_all_of_train_is_trained_on(make_data, source, with_own_validation):
    data = make_data(source=with_own_validation)
    assert data.train_index.tolist() == list(range(200)) and data.val_index.tolist() == list(range(20))
    images, targets = next(iter(data.val_dataloader()))
    assert torch.equal(images, source.test_inputs[:20] + 1) and torch.equal(targets, source.test_targets[:20])
    assert torch.equal(data.part("val").inputs, images) and data.part("train").inputs is source.train_inputs
    relabelled = replace(with_own_validation, val_targets=3 - source.test_targets[:20])
    assert len({data.split_hash, make_data(val_fraction=0).split_hash, make_data(source=relabelled).split_hash}) == 3
    with pytest.raises(UserError, match="has a validation set of its own"):
        make_data(source=with_own_validation, folds=5)


@pytest.mark.parametrize("knobs", [{}, {"folds": 4, "fold": 1}, {"limit": 100}], ids=str)
def test_groups_are_not_split_over_train_and_validation(make_data, source, knobs):
    groups = torch.arange(200) % 23
    data = make_data(source=replace(source, groups=groups), **knobs)
    assert not set(groups[data.train_index].tolist()) & set(groups[data.val_index].tolist())
    share = 0.25 if knobs.get("folds") else 0.2
    assert len(data.val_index) == pytest.approx(share * knobs.get("limit", 200), abs=6)


def test_validation_is_the_latest_part_of_inputs_with_times(make_data, source):
    times = torch.arange(200).flip(0) / 10
    data = make_data(source=replace(source, times=times))
    assert data.val_index.tolist() == list(range(40))
    with pytest.raises(UserError, match="ordered in time"):
        make_data(source=replace(source, times=times), folds=5)


def test_it_shows_which_classes_are_mixed(make_data):
    axes = make_data(mixup=1).show(count=6).get_axes()
    titles = [axis.get_title() for axis in axes[6:]]
    for title in titles:
        shares = [line.split("% ") for line in title.split("\n")]
        assert sum(int(share) for share, _ in shares) == pytest.approx(100, abs=1)
        assert {name for _, name in shares} <= {"a", "b", "c", "d"}
    assert any("\n" in title for title in titles)


@pytest.mark.parametrize(
    "knobs, message",
    [
        ({"mixup": -1}, r"data\.mixup=-1 is negative"),
        ({"mixup": 1, "views": 2, "augment": Augment(0, "zeros", True, 0, 0, 0)}, "mixup and cutmix mix one view"),
        ({"augment": Augment(0, "zeros", True, 0, 0, 0, hue=0.1), "grey": True}, "change nothing in grey pictures"),
    ],
    ids=["negative", "views", "grey"],
)
def test_changes_that_do_not_fit_the_data_are_refused(make_data, source, knobs, message):
    if knobs.pop("grey", False):
        knobs["source"] = replace(
            source, train_inputs=source.train_inputs[:, :1], test_inputs=source.test_inputs[:, :1]
        )
    with pytest.raises(UserError, match=message):
        make_data(**knobs)


def test_float_pictures_are_shown_and_get_their_mean_colour_and_other_inputs_are_refused(make_data, source):
    pictures = {name: getattr(source, name).float() / 255 for name in ("train_inputs", "test_inputs")}
    data = make_data(source=replace(source, **pictures), augment=Augment(0, "zeros", False, 4, 0, 0))
    expected = make_data(augment=Augment(0, "zeros", False, 4, 0, 0), source=source)
    assert (data.augment.mean * 255 - expected.augment.mean).abs().max() <= 1
    shown = torch.tensor(data.show(2).axes[0].images[0].get_array())
    first = next(iter(replace(data.train_dataloader(), augment=Augment(0, "zeros", False, 0, 0, 0))))[0]
    assert (shown / 255 - first[0].permute(1, 2, 0)).abs().max() < 0.02  # of 0 to 1
    vectors = {name: getattr(source, name).float().flatten(1) for name in pictures}
    with pytest.raises(UserError, match=r"draws pictures of 1 or 3 channels, \[C, H, W\], and .* is \[144\]"):
        make_data(source=replace(source, **vectors)).show()
    with pytest.raises(UserError, match=r"data\.augment changes pictures"):
        make_data(source=replace(source, **vectors), augment=Augment(0, "zeros", True, 0, 0, 0))


def test_an_augmentation_of_ones_own_may_take_vectors(make_data, source):
    class Noise(Augment):
        def __bool__(self):
            return True

        def __call__(self, images, generator, total, start=0, mirrored=None):
            return images + torch.rand(images.shape, generator=generator)

    vectors = {name: getattr(source, name).float().flatten(1) for name in ("train_inputs", "test_inputs")}
    data = make_data(source=replace(source, **vectors), augment=Noise(0, "zeros", False, 0, 0, 0))
    plain = make_data(source=replace(source, **vectors))
    (changed, _), (images, _) = (next(iter(each.train_dataloader())) for each in (data, plain))
    assert (changed - images).min() > 0 and (changed - images).max() < 1
