import math

import pytest
import torch
import torch.nn.functional as F

from athanor.data.augmentation.augment import Augment
from athanor.data.batches import EvalBatches, TrainBatches
from athanor.engine.runs.run import Run, read_checkpoint
from athanor.tasks.losses import InfoNCE

SHIFT = Augment(0, "zeros", False, 0, 2.0, 0.0)


def test_the_loss_picks_the_other_view_among_all_others():
    vectors = F.normalize(torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=1)
    total = 0.0
    for i in range(6):
        others = [math.exp((vectors[i] @ vectors[j]).item() / 0.5) for j in range(6) if j != i]
        total -= math.log(math.exp((vectors[i] @ vectors[(i + 3) % 6]).item() / 0.5) / sum(others))
    assert InfoNCE(0.5)(vectors, torch.zeros(3)).item() == pytest.approx(total / 6, rel=1e-12)


def batches(source, rank=0, world_size=1, views=2, epoch=0):
    index = torch.arange(64)
    position = lambda: (epoch, 0)  # noqa: E731
    return TrainBatches(
        source.train_inputs, source.train_targets, index, 16, 0, SHIFT, position, rank, world_size, views=views
    )


def test_views_are_augmented_each_in_its_own_way_and_the_first_is_that_of_a_run_with_one(source):
    (images, targets), (single, _) = next(iter(batches(source))), next(iter(batches(source, views=1)))
    assert images.shape == (32, 3, 6, 8) and targets.shape == (16,)
    first, second = images.chunk(2)
    assert torch.equal(first, single) and not torch.equal(first, second)
    assert not torch.equal(next(iter(batches(source, epoch=1)))[0], images)


def test_processes_share_the_views_of_a_batch(source):
    whole = next(iter(batches(source)))[0].chunk(2)
    parts = [next(iter(batches(source, rank, 2)))[0].chunk(2) for rank in (0, 1)]
    for view in (0, 1):
        assert torch.equal(torch.cat([part[view] for part in parts]), whole[view])


def test_views_of_validation_are_the_same_in_each_epoch(source):
    loader = EvalBatches(source.train_inputs, source.train_targets, torch.arange(40), 16, views=2, augment=SHIFT)
    first, again = list(loader), list(loader)
    assert [len(targets) for _, targets in first] == [16, 16, 8]
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, again, strict=True))
    a, b = first[0][0].chunk(2)
    assert not torch.equal(a, b) and not torch.equal(first[0][0], first[1][0])


@pytest.mark.slow
def test_it_learns_and_its_weights_are_fine_tuned_with_a_new_head(train):
    words = ["model=cnn", "trainer.max_epochs=15", "eval.test=false", "data.batch_size=256"]
    pictures = ["data.augment.shift=1", "data.augment.rotate=15", "task.dim=10"]  # as many as there are classes
    assert train("task=contrastive", *pictures, *words, "loss.temperature=0.2", "hydra.run.dir=pretrained").code == 0
    assert Run("pretrained").results["val"]["match"] > 0.2  # of 285 others; 0.004 by chance
    ran = train("weights=pretrained", "model=cnn", "trainer.max_epochs=1", "hydra.run.dir=tuned")
    assert ran.code == 0 and "the head (head.weight, head.bias) is new" in ran.out + ran.err
    assert not any("projection" in name for name in read_checkpoint(Run("tuned").checkpoint)["state_dict"])
