import re

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from athanor.base.errors import UserError
from athanor.data.preprocess import ImageNet

IMAGES = torch.randint(0, 256, (4, 3, 6, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_it_is_what_torchvision_makes_for_its_weights():
    preprocess = ImageNet((3, 6, 7))
    preprocess.fit(IMAGES, torch.arange(4))
    expected = F.normalize(IMAGES / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(preprocess(IMAGES), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(1, 6, 7), (4, 6, 7), (20,)])
def test_what_is_not_in_colour_is_refused(shape):
    message = f"data.preprocess=imagenet takes pictures in colour, and this data has {list(shape)}; use data.mode=RGB"
    with pytest.raises(UserError, match=re.escape(message)):
        ImageNet(shape)


def test_pixels_that_are_no_bytes_are_refused():
    with pytest.raises(UserError, match="takes uint8 pictures; use standardize or none"):
        ImageNet((3, 6, 7)).fit(IMAGES.float(), torch.arange(4))
