"""Preprocessing with the constants of ImageNet, for networks whose weights were trained with them."""

import torch
from torch import Tensor

from athanor.base.errors import UserError, require
from athanor.data.preprocess import Standardize

# of red, green and blue in [0, 1], as torchvision's and most of timm's weights expect them
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class ImageNet(Standardize):
    """Subtract the mean of each channel of ImageNet and divide by its standard deviation; nothing is fitted.

    Raises UserError for inputs that are no uint8 pictures with three channels.
    """

    def __init__(self, input_shape: tuple[int, int, int]) -> None:
        if len(input_shape) != 3 or input_shape[0] != 3:
            raise UserError(
                f"data.preprocess=imagenet takes pictures in colour, and this data has {list(input_shape)}; "
                "use data.mode=RGB where the data has that setting, or data.preprocess=standardize"
            )
        super().__init__(input_shape)
        for buffer, values in (self.mean, MEAN), (self.std, STD):
            buffer.copy_(255 * torch.tensor(values)[:, None, None])

    def fit(self, images: Tensor, index: Tensor) -> None:
        require(images.dtype == torch.uint8, "data.preprocess=imagenet takes uint8 pictures; use standardize or none")
