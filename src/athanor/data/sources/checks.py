"""What the arrays of a source have to be, found out before anything is made of them.

Each message says in a line what was got and what to return instead.
"""

import logging
import warnings
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from athanor.base.errors import UserError, require
from athanor.data.streamed import Items

log = logging.getLogger(__name__)

INPUT_DTYPES = (torch.uint8, torch.uint16, torch.int16, torch.float32, torch.int64)
CHECKED_BYTES = 2**28  # of floats, of which all rows are looked at; a memory map may be far larger


def told(values: Tensor) -> str:
    """Type and shape, as `float32 [400, 20]`."""
    return f"{str(values.dtype).removeprefix('torch.')} {list(values.shape)}"


def as_tensor(name: str, values: object) -> Tensor:
    """The tensor that shares the memory of a numpy array, so that a memory map stays one; others as they are.

    Raises UserError for anything else.
    """
    if isinstance(values, Items):
        return values
    if isinstance(values, Tensor):
        require(values.device.type == "cpu", f"{name} is on {values.device}; return it in the main memory, .cpu()")
        return values.detach() if values.requires_grad else values
    if not isinstance(values, np.ndarray):
        raise UserError(f"{name} is of the type {type(values).__name__}; return a numpy array or a torch tensor")
    if values.dtype.kind == "M":
        values = values.astype("datetime64[ns]").astype(np.int64)
    if values.dtype.kind not in "buif":
        raise UserError(
            f"{name} is a numpy array of {values.dtype} {list(values.shape)}; return numbers "
            "(rows of one length; of text np.unique(values, return_inverse=True)[1])"
        )
    if not values.dtype.isnative or any(stride < 0 for stride in values.strides):
        values = values.astype(values.dtype.newbyteorder("="), order="C")  # torch takes neither
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nothing here writes into inputs
        return torch.from_numpy(values)


def check_shapes(stages: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Raise UserError where inputs or targets are not of a kind that can be trained on, or differ between stages.

    stages: inputs and targets by train, test and, where there is one, val. No value is read.
    """
    for stage, (inputs, targets) in stages.items():
        check_inputs(f"{stage}_inputs", inputs)
        check_targets(f"{stage}_targets", targets)
        if len(inputs) != len(targets):
            raise UserError(f"{stage}_inputs has {len(inputs)} inputs, and {stage}_targets {len(targets)} targets")
        for kind, own, first in zip(("inputs", "targets"), (inputs, targets), stages["train"], strict=True):
            if (own.dtype, own.shape[1:]) != (first.dtype, first.shape[1:]):
                raise UserError(
                    f"{stage}_{kind} is {told(own)} and train_{kind} {told(first)}; return one type and one shape"
                )


def check_inputs(name: str, inputs: Tensor) -> None:
    shape = inputs.shape
    if inputs.dtype not in INPUT_DTYPES:
        kinds = ", ".join(str(dtype).removeprefix("torch.") for dtype in INPUT_DTYPES)
        indices = "" if inputs.is_floating_point() else ", or indices (of tokens) as int64: .astype('int64')"
        advice = f"return numbers as float32: {name}.astype('float32'){indices}"
        raise UserError(f"{name} is {told(inputs)}, and inputs are {kinds}; {advice}")
    require(len(shape) >= 2, f"{name} is {told(inputs)}, one number an input; return [N, 1]: {name}[:, None]")
    require(inputs.numel(), f"{name} is {told(inputs)}, and has no input; return one or more")
    if len(shape) == 4 and shape[3] in (1, 3, 4) and min(shape[1:3]) > 4:
        raise UserError(
            f"{name} is {told(inputs)}, pictures with their channels last; return [N, C, H, W]: "
            f"{name}.permute(0, 3, 1, 2), of a numpy array .transpose(0, 3, 1, 2)"
        )


def check_targets(name: str, targets: Tensor) -> None:
    require(targets.ndim, f"{name} is a single number; return one for each input, [N]")
    is_number = targets.dtype in (torch.int64, torch.float32, torch.float64)
    if not is_number and (targets.ndim == 1 or targets.is_floating_point() or targets.is_complex()):
        kind = "numbers as float32: .astype('float32')" if targets.ndim > 1 else "classes as int64: .astype('int64')"
        raise UserError(f"{name} is {told(targets)}; return {kind}")


def check_values(stage: str, inputs: Tensor, targets: Tensor, class_names: tuple[str, ...]) -> None:
    """Raise UserError where values are nan or infinite, or labels of classes are not 0 to C - 1."""
    refuse_non_finite(f"{stage}_inputs", inputs)
    refuse_non_finite(f"{stage}_targets", targets)
    count = len(class_names)
    if not count or targets.ndim != 1:
        return
    if targets.is_floating_point():
        raise UserError(
            f"{stage}_targets is {told(targets)}, with class_names of {count} classes; return labels as int64: "
            ".astype('int64'), or class_names=() where the targets are numbers to predict"
        )
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= count:
        advice = f"; return {stage}_targets - 1" if (low, high) == (1, count) else ""
        raise UserError(f"{stage}_targets lie in {low}..{high}, and {count} class_names are for 0..{count - 1}{advice}")


def refuse_non_finite(name: str, values: Tensor) -> None:
    """Raise UserError where floats are nan or infinite. Above CHECKED_BYTES, evenly spaced rows are looked at."""
    if isinstance(values, Items) or not values.is_floating_point():  # items are read in batches only
        return
    every = max(-(-values.nbytes // CHECKED_BYTES), 1)
    rows = values[::every].reshape(len(values[::every]), -1)
    if rows.sum(1).isfinite().all():  # 80 times faster than all values; of finite ones a sum may be infinite
        return
    is_bad = ~rows.isfinite().all(1)
    if is_bad.any():
        first = int(is_bad.nonzero()[0]) * every
        raise UserError(
            f"{name} has nan or infinite values in {int(is_bad.sum()):,} of {len(is_bad):,} rows that were looked at, "
            f"first in row {first:,}; leave these rows out or fill them"
        )


def check_class_names(class_names: tuple[str, ...], train_targets: Tensor) -> None:
    """Raise UserError where two classes have one name; warn of classes that have no training input."""
    require(len({*class_names}) == len(class_names), "class_names has a name twice; give each class one of its own")
    if class_names and train_targets.ndim == 1:
        missing = (torch.bincount(train_targets, minlength=len(class_names)) == 0).nonzero().flatten().tolist()
        if missing:
            names = ", ".join(class_names[i] for i in missing[:5])
            log.warning("%d of %d classes have no training input: %s", len(missing), len(class_names), names)


def check_order(groups: Tensor | None, times: Tensor | None, count: int) -> None:
    """Raise UserError where groups or times are not one number for each of `count` training inputs."""
    require(groups is None or times is None, "groups and times are both given, which ask for other splits; return one")
    if groups is not None and (groups.dtype, groups.shape) != (torch.int64, (count,)):
        raise UserError(f"groups is {told(groups)}; return a number for each training input, int64 [{count}]")
    if times is not None:
        require(times.shape == (count,), f"times is {told(times)}; return one for each training input, [{count}]")
        refuse_non_finite("times", times)
