import pytest
import torch
from torchvision.transforms import v2

from athanor.data.augmentation import randaugment


def picture(channels):
    return torch.randint(0, 200, (1, channels, 16, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def distinct(images):
    return {image.numpy().tobytes() for image in images}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("magnitude", [0, 9, 30])
def test_one_operation_makes_the_pictures_that_torchvisions_makes_and_no_others(magnitude, channels):
    image = picture(channels)
    torch.manual_seed(0)
    reference = v2.RandAugment(num_ops=1, magnitude=magnitude)
    expected = distinct(reference(image)[0] for _ in range(500))
    draws = torch.rand(500, 1, 2, generator=torch.Generator().manual_seed(0))
    made = randaugment.changed(image.expand(500, -1, -1, -1), draws, magnitude)
    assert distinct(made) == expected
    assert len(expected) > (2 if magnitude == 0 else 15)


def test_two_operations_are_one_after_the_other_whatever_the_other_pictures_draw():
    images = torch.cat([picture(3)] * 40)
    draws = torch.rand(40, 2, 2, generator=torch.Generator().manual_seed(1))
    together = randaugment.changed(images, draws, 9)
    alone = [randaugment.changed(images[:1], draws[i : i + 1], 9) for i in range(40)]
    one_by_one = randaugment.changed(randaugment.changed(images, draws[:, :1], 9), draws[:, 1:], 9)
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(together, one_by_one)
    assert torch.equal(images, torch.cat([picture(3)] * 40))
    assert len(together.unique(dim=0)) > 25
