"""An augmentation of one's own, called as ours is."""

import random
import re
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from athanor.base.errors import UserError
from athanor.data.augmentation.own_augment import OwnAugment

IMAGES = torch.randint(0, 100, (6, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SAME = IMAGES[:1].expand(40, -1, -1, -1)


def own(change, per_image=None):
    return OwnAugment(change, "mine", per_image)


def call(augment, images=IMAGES, seed=0, start=0):
    return augment(images, torch.Generator().manual_seed(seed), total=100, start=start)


def noisy(images, strength):
    return images + (strength * torch.rand(images.shape)).byte()


def drawn(images, generator, by):
    return images + torch.randint(0, by, images.shape, generator=generator).byte()


def of_numpy(images):
    return images + torch.from_numpy(np.random.randint(0, 50, images.shape)).byte() + random.randrange(50)


class Noise(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("strength", torch.tensor(50.0))

    def forward(self, images):
        return images + (self.strength * torch.rand(images.shape)).byte()


FLIPS = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomAffine(10, translate=(0.2, 0.2))])
KINDS = {
    "a function": partial(noisy, strength=50),
    "a function of a generator": partial(drawn, by=50),
    "a function of numpy and random": of_numpy,
    "a module": Noise(),
    "torchvision": FLIPS,
}


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_it_draws_is_a_function_of_the_seed_and_moves_no_generator(kind, per_image):
    augment = own(KINDS[kind], per_image)
    before, states = IMAGES.clone(), (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    first = call(augment)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all() and random.getstate() == states[2]
    torch.rand(1), np.random.rand(), random.random()
    assert torch.equal(call(augment), first)
    assert not torch.equal(call(augment, seed=1), first)
    assert torch.equal(IMAGES, before) and augment


@pytest.mark.parametrize("kind", KINDS)
def test_per_image_each_has_draws_of_its_own_however_the_batch_is_divided(kind):
    augment = own(KINDS[kind], per_image=True)
    whole = call(augment, SAME)
    assert len(whole.unique(dim=0)) > 20
    parts = [call(augment, SAME[:20], start=start) for start in (0, 20)]
    assert torch.equal(torch.cat(parts), whole)


def test_transforms_of_torchvision_are_made_per_image_unless_one_says_otherwise():
    assert len(call(own(FLIPS), SAME).unique(dim=0)) > 20
    assert len(call(own(FLIPS, per_image=False), SAME).unique(dim=0)) == 1  # one draw for all
    assert own(nn.Sequential(nn.Identity(), v2.RandomHorizontalFlip())).per_image
    assert not own(Noise()).per_image


def test_a_composition_gives_what_torchvision_gives_with_the_same_seed():
    from athanor.data.seeds import mix

    changed = call(own(FLIPS), start=3)
    for i, image in enumerate(IMAGES):
        torch.manual_seed(mix(mix(0, 3 + i)))
        assert torch.equal(changed[i], FLIPS(image))


def test_a_module_gets_no_gradients():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, inputs):
            return inputs * self.scale

    assert not call(own(Scaled()), torch.rand(4, 5)).requires_grad


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda images: images.float() / 255,
            "got uint8 [6, 3, 8, 8] and returned float32 [6, 3, 8, 8]; it has to keep",
        ),
        (lambda images: images[:, :, 1:], "returned uint8 [6, 3, 7, 8]; it has to keep dtype and shape"),
        (lambda images: None, "returned a NoneType; it has to keep dtype and shape"),
        (v2.Compose([v2.ToDtype(torch.float32, scale=True)]), "got uint8 [3, 8, 8] and returned float32 [3, 8, 8]"),
    ],
)
def test_another_dtype_or_shape_is_refused(change, message):
    with pytest.raises(UserError, match=re.escape(message)):
        call(own(change))


@pytest.mark.parametrize("change", [lambda: None, lambda images, by: images, lambda images, generator, by: images])
def test_what_cannot_be_called_with_images_is_refused_at_once(change):
    with pytest.raises(UserError, match=r"^data\.augment: mine cannot be called with images: "):
        own(change)
