"""Brightness, contrast, saturation and hue of uint8 pictures, each image by a factor of its own."""

import torch
from torch import Tensor

LUMINANCE = (0.2989, 0.587, 0.114)  # of red, green and blue, as torchvision and Pillow weigh them


def factor(name: str, strength: float, draw: Tensor) -> Tensor:
    """From uniform draws [N] in [0, 1): turns in [-strength, strength] for hue, else what a picture is multiplied by,
    in [max(0, 1 - strength), 1 + strength].
    """
    least, most = (-strength, strength) if name == "hue" else (max(0.0, 1 - strength), 1 + strength)
    return least + (most - least) * draw


def jitter(images: Tensor, factors: dict[str, Tensor]) -> Tensor:
    """Change uint8 [N, C, H, W], C being 1 or 3, in the order of `factors`: [N] for each name."""
    pixels = images.float()
    for name, values in factors.items():
        values = values.view(-1, 1, 1, 1)
        if name == "hue":
            pixels = turned(pixels, values)
        else:
            pixels = torch.lerp(darkest(name, pixels), pixels, values).clamp_(0, 255)
    return pixels.round_().to(images.dtype)


def darkest(name: str, pixels: Tensor) -> Tensor:
    """What a picture becomes with the factor 0: black, one grey all over, or grey pixel by pixel."""
    if name == "brightness":
        return torch.zeros((), device=pixels.device)
    grey = pixels
    if pixels.shape[1] == 3:
        grey = (pixels * torch.tensor(LUMINANCE, device=pixels.device).view(3, 1, 1)).sum(1, keepdim=True)
    return grey.mean((1, 2, 3), keepdim=True) if name == "contrast" else grey


def turned(pixels: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of [N, 3, H, W] by so many whole turns, [N, 1, 1, 1], as in HSV (Smith 1978)."""
    value, least = pixels.amax(1, keepdim=True), pixels.amin(1, keepdim=True)
    chroma = value - least
    red, green, blue = pixels.split(1, 1)
    divisor = torch.where(chroma > 0, chroma, 1.0)  # a grey pixel has no hue
    of_green, of_blue = 2 + (blue - red) / divisor, 4 + (red - green) / divisor
    hue = torch.where(
        value == red, (green - blue) / divisor, torch.where(value == green, of_green, of_blue)
    )  # in sixths
    offset = torch.tensor([5.0, 3.0, 1.0], device=pixels.device).view(3, 1, 1)
    place = (hue + 6 * turns + offset) % 6  # on the circle, as each of red, green and blue sees it
    return value - chroma * torch.minimum(place, 4 - place).clamp_(0, 1)
