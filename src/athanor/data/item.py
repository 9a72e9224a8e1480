"""What an item of a torch Dataset may be, and what is said where it is not or cannot be read."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from athanor.base.errors import UserError

PIXEL_MODES = ("L", "RGB", "I;16", "I", "F")  # of Pillow, which become tensors as they are; others become RGB


class ItemError(RuntimeError):
    """A Dataset's own code has failed. The terminal shows the first line, and the place from the traceback after it."""


def as_input(value: Any) -> Tensor:
    """An item's input as a tensor: a picture of Pillow uint8 [C, H, W], float64 as float32, numbers and arrays."""
    if isinstance(value, Tensor):
        tensor = value if type(value) is Tensor else value.as_subclass(Tensor)  # of torchvision's kinds of tensors
    elif isinstance(value, Image.Image):
        pixels = np.array(value if value.mode in PIXEL_MODES else value.convert("RGB"))
        tensor = torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())
    elif isinstance(value, (np.ndarray, np.generic, int, float, list, tuple)):
        tensor = torch.as_tensor(np.array(value))
    else:
        raise UserError(f"an input is a {type(value).__name__}; use a tensor, a numpy array, a PIL image or a number")
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def as_targets(values: Sequence[Any]) -> Tensor:
    """Targets of items [n, ...]: whole numbers int64, others float32. Raises UserError for what is no number."""
    try:
        array = torch.stack(values) if isinstance(values[0], Tensor) else torch.as_tensor(np.array(values))
        return array.float() if array.is_floating_point() else array.long()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"a target is {values[0]!r:.60}, a {type(values[0]).__name__}; use a number, or an array of one size"
        ) from error
