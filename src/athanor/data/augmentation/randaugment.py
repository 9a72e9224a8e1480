"""RandAugment (Cubuk et al. 2019): operations drawn for each image; torchvision makes each on all that drew it.

Operations and their ranges are those of torchvision's RandAugment, nearest pixel included.
"""

import math
from collections.abc import Callable
from functools import partial

from torch import Tensor
from torchvision.transforms.v2 import functional as F

STRONGEST = 30  # magnitude
MOST_SHIFT = 150 / 331  # of the width or height, as in the paper's ImageNet pictures of 331 pixels


def moved(images: Tensor, m: float, shear: tuple[int, int] = (0, 0), shift: tuple[int, int] = (0, 0)) -> Tensor:
    """Sheared by up to 0.3, or moved, along the axes (x, y) that are 1."""
    height, width = images.shape[-2:]
    angles = [math.degrees(math.atan(0.3 * m)) * axis for axis in shear]
    pixels = [int(MOST_SHIFT * m * length) * axis for length, axis in zip((width, height), shift, strict=True)]
    return F.affine(images, angle=0.0, translate=pixels, scale=1.0, shear=angles, center=[0, 0] if any(shear) else None)


# by m, the magnitude divided by the strongest, of either sign
SIGNED: list[Callable[[Tensor, float], Tensor]] = [
    partial(moved, shear=(1, 0)),
    partial(moved, shear=(0, 1)),
    partial(moved, shift=(1, 0)),
    partial(moved, shift=(0, 1)),
    lambda images, m: F.rotate(images, 30 * m),
    lambda images, m: F.adjust_brightness(images, 1 + 0.9 * m),
    lambda images, m: F.adjust_saturation(images, 1 + 0.9 * m),
    lambda images, m: F.adjust_contrast(images, 1 + 0.9 * m),
    lambda images, m: F.adjust_sharpness(images, 1 + 0.9 * m),
]
UNSIGNED: list[Callable[[Tensor, float], Tensor]] = [
    lambda images, m: images,
    lambda images, m: F.posterize(images, 8 - round(4 * m)),
    lambda images, m: F.solarize(images, 255 * (1 - m)),
    lambda images, m: F.autocontrast(images),
    lambda images, m: F.equalize(images),
]


def changed(images: Tensor, draws: Tensor, magnitude: int) -> Tensor:
    """Change uint8 [N, C, H, W] by as many operations as draws, uniform [N, operations, 2], has; the second number
    gives the sign. On a GPU, grouping the images waits for it.
    """
    images, m = images.clone(), magnitude / STRONGEST
    operation = (draws[..., 0] * (len(SIGNED) + len(UNSIGNED))).long()
    is_negative = (draws[..., 1] < 0.5) & (operation < len(SIGNED))
    for number, negative in zip(operation.unbind(1), is_negative.unbind(1), strict=True):
        code = 2 * number + negative
        for each in code.unique().tolist():
            chosen = (code == each).nonzero().flatten()
            images[chosen] = [*SIGNED, *UNSIGNED][each // 2](images[chosen], -m if each % 2 else m)
    return images
