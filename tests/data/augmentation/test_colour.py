import pytest
import torch
from torchvision.transforms.v2 import functional as F

from athanor.data.augmentation import colour

TORCHVISION = {
    "brightness": F.adjust_brightness,
    "contrast": F.adjust_contrast,
    "saturation": F.adjust_saturation,
    "hue": F.adjust_hue,
}
FACTORS = {"hue": torch.linspace(-0.5, 0.5, 15)}


def images(channels):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (15, channels, 9, 11), dtype=torch.uint8, generator=generator)
    images[:, :, 0] = images[:, :1, 0]  # grey pixels
    images[:, 0, 1] = images[:, -1, 1]  # of two equal channels
    images[:, :, 2, 0], images[:, :, 2, 1] = 0, 255
    return images


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", TORCHVISION)
def test_each_image_becomes_what_torchvision_makes_of_it_with_its_factor(name, channels):
    before, factors = images(channels), FACTORS.get(name, torch.linspace(0, 2, 15))
    if (name, channels) == ("hue", 1):
        pytest.skip("grey pictures have no hue")
    changed = colour.jitter(before, {name: factors})
    for image, factor, other in zip(before, factors.tolist(), changed, strict=True):
        floats = (255 * TORCHVISION[name](image / 255, factor)).round()
        assert (other - floats).abs().max() <= 1  # of 255: numbers between two whole ones
        assert (other - floats).abs().mean() < 0.02
        assert (other.int() - TORCHVISION[name](image, factor).int()).abs().max() <= 3  # it cuts off, also in between


def test_the_order_is_the_given_one_and_the_pictures_that_came_in_are_untouched():
    before = images(3)
    copy, factors = before.clone(), {name: torch.full((15,), 1.5) for name in ("brightness", "contrast", "saturation")}
    changed = colour.jitter(before, factors)
    one_by_one = before
    for name, values in factors.items():
        one_by_one = colour.jitter(one_by_one, {name: values})
    assert torch.equal(before, copy)
    assert (changed.int() - one_by_one.int()).abs().max() <= 3  # which is rounded three times
    assert changed.dtype == torch.uint8


def test_factors_fill_the_range_and_none_is_below_zero():
    draws = torch.tensor([0.0, 0.5, 1.0])
    assert colour.factor("contrast", 0.3, draws).tolist() == pytest.approx([0.7, 1, 1.3])
    assert colour.factor("contrast", 3, draws).tolist() == pytest.approx([0, 2, 4])
    assert colour.factor("hue", 0.3, draws).tolist() == pytest.approx([-0.3, 0, 0.3])
