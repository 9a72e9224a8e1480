"""Random windows of pictures, enlarged to their size."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def windows(
    shape: Tensor, corner: Tensor, images: Tensor, areas: list[float], ratios: list[float]
) -> tuple[Tensor, Tensor]:
    """The upper left corners and sizes of windows, both int64 [N, 2] (y, x), from uniform draws.

    shape: [N, tries, 2]; of tries with a share of the area in the range `areas` and a ratio of width to height in the
        range `ratios`, evenly on a log scale, the first that fits into the image is taken, and if none does, the last
        one, cut off at the border.
    corner: [N, 2], of the places that are left.
    """
    size = torch.tensor(images.shape[-2:], device=images.device)
    area = (areas[0] + shape[..., 0] * (areas[1] - areas[0])) * size.prod()
    low, high = map(math.log, ratios)
    ratio = (low + shape[..., 1] * (high - low)).exp()
    sides = torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()], -1).round().long()  # [N, tries, 2]
    fits = ((sides > 0) & (sides <= size)).all(-1)
    fits[:, -1] = True
    first = fits.int().argmax(1)
    sides = torch.minimum(sides[torch.arange(len(sides), device=sides.device), first], size).clamp_min(1)
    return (corner * (size - sides + 1)).long(), sides


def resized_crop(images: Tensor, corner: Tensor, sides: Tensor) -> Tensor:
    """Enlarge windows to the size of the images, bilinear; `corner` and `sides` are int64 [N, 2] (y, x)."""
    axes = []
    for dim, length in enumerate(images.shape[-2:]):
        first, side = corner[:, dim, None], sides[:, dim, None]
        pixel = (torch.arange(length, device=images.device) + 0.5) * side / length - 0.5
        pixel = first + torch.minimum(pixel.clamp_min(0), side - 1)  # what lies outside of a window is not mixed in
        axes.append((2 * pixel + 1) / length - 1)
    y, x = axes
    grid = torch.stack([x[:, None].expand(-1, y.shape[1], -1), y[:, :, None].expand(-1, -1, x.shape[1])], -1)
    changed = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return in_dtype(changed, images.dtype)


def in_dtype(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """Floats as they are, whole numbers rounded."""
    return pixels.to(dtype) if dtype.is_floating_point else pixels.round_().to(dtype)
