"""What a person wants predicted, image files, arrays and tables, as the inputs that a model takes."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from athanor.base.errors import UserError, require
from athanor.data.sources.checks import as_tensor, refuse_non_finite, told
from athanor.data.sources.csv_file import read_table
from athanor.data.sources.image_file import load_image
from athanor.data.sources.table import encoded

MODES = {("uint8", 1): "L", ("uint8", 3): "RGB", ("uint16", 1): "L16"}  # of image files, by type and channels


def load_inputs(file: str, record: dict[str, Any]) -> tuple[list[str], Tensor]:
    """The inputs in a file, [N, ...], and a name for each, for the model that a checkpoint's record describes.

    An image file holds one; a .npy file one, or several [N, ...]; a table, for a model of tables, one in each row.
    Raises UserError where they are not of the shape and the type that the model takes.
    """
    shape, dtype = record["input_shape"], record["input_dtype"]
    if file.endswith(".npy"):
        inputs = load_array(file, shape, dtype)
        return [f"{file}[{i}]" for i in range(len(inputs))], inputs
    if record["columns"] is not None:
        inputs = encoded(read_table(file, "the table"), record["columns"])
        return [f"{file} row {i}" for i in range(1, len(inputs) + 1)], inputs
    mode = MODES.get((dtype, shape[0])) if len(shape) == 3 else None
    require(mode, f"{file}: this model takes {dtype} {shape}, and no image file holds that; name .npy files with it")
    _, height, width = shape
    size = height if height == width else None  # other models take images of their own size only
    image = torch.tensor(load_image(file, mode, size))
    if image.shape[1:] != (height, width):
        raise UserError(f"{file} is {image.shape[2]}x{image.shape[1]}, the model takes {width}x{height} only")
    return [file], image[None]


def load_array(file: str, shape: list[int], dtype: str) -> Tensor:
    """The inputs [N, *shape] in a .npy file, which may hold one without N. Large files are memory-mapped."""
    require(Path(file).is_file(), f"{file} does not exist")
    try:
        array = as_tensor(file, np.load(file, mmap_mode="r", allow_pickle=False))
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{file}: {error}") from error
    inputs = array[None] if list(array.shape) == shape else array
    if list(inputs.shape[1:]) != shape or inputs.dtype != getattr(torch, dtype):
        raise UserError(f"{file} is {told(array)}, the model takes {dtype} {shape} or several, [N, ...] of these")
    refuse_non_finite(file, inputs)
    return inputs
