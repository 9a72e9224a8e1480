"""The linear classifier, y = Wx + b: each row of W is the template of one class."""

import math

from torch import Tensor, nn

from athanor.models.layers import flat_numbers


class Linear(nn.Module):
    """[B, ...] -> [B, num_classes]; of pictures, `head.weight[k].view(C, H, W)` is the template of class k."""

    initialised_by_activation = True

    def __init__(self, *, input_shape: tuple[int, ...], num_classes: int):
        super().__init__()
        self.head = nn.Linear(math.prod(input_shape), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(flat_numbers(x))
