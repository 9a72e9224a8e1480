"""What every data set becomes: arrays of inputs and targets."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from athanor.base.errors import require
from athanor.base.text import printable
from athanor.data.sources import checks

STAGES = ("train", "test", "val")
ARRAYS = (*(f"{stage}_{kind}" for stage in STAGES for kind in ("inputs", "targets")), "groups", "times")


@dataclass(frozen=True)
class Source:
    """Inputs [N, ...], targets of them, and what is known of both. Numpy arrays are taken as they are.

    Inputs are pictures [N, C, H, W], uint8, uint16, int16 or float32 (RGB order, channels first); vectors [N, D] and
    other numbers, float32; or sequences of indices [N, T], int64, for a model that begins with an embedding.
    Targets are what the task takes: class indices, int64 [N] in 0..len(class_names)-1, for task=classification;
    numbers, float32 [N] or [N, K]; attributes of 0 and 1, [N, K]. Targets of another type than class indices are split
    at random and not by class, and class_names may then be empty.
    Control characters in a class name become escapes, as `\\n`: names reach screens, tables and the names of metrics.
    The arrays may be memory-mapped. `test_*` is the official test set, which is read once, after training.
    `val_*` is an official validation set, where there is one: then all training inputs are trained on.
    `groups` int64 [N] and `times` [N] are of the training inputs: those of one group (a patient, a writer) are never
    in train and in validation; of inputs with times, validation has the latest.
    `columns` is plain data that goes into checkpoints: how a table's rows become inputs, for predictions of new ones.
    `fit` is called after the split, with the indices of the inputs that are trained on, and gives the source with all
    that comes from statistics of inputs (means that fill gaps, categories), which may be of these alone.
    `origin` says in one line which files these are; it goes into the results of a run.
    Raises UserError where the arrays are not of this kind (checks.py): types, shapes, lengths, labels, nan.

    A data set of your own is a function with the annotation `-> Source` in src/athanor/data/<name>.py, and a
    configs/data/<name>.yaml that begins with `defaults: [base/default@_here_, _self_]` and has its `_target_` and the
    values of its arguments. It is called once in each process of a run, before all else is built, and is handed, if it
    has arguments of these names: data_dir, the top-level setting, and split_seed, that of the split, on which alone
    random choices may depend. Arguments of ArrayData (athanor/data/module.py) cannot be arguments of it.
    tests/test_extend.py adds one.
    """

    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    class_names: tuple[str, ...]
    origin: str
    val_inputs: Tensor | None = None
    val_targets: Tensor | None = None
    groups: Tensor | None = None
    times: Tensor | None = None
    columns: list[dict[str, Any]] | None = None
    fit: "Callable[[Tensor], Source] | None" = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_names", tuple(map(printable, map(str, self.class_names))))
        object.__setattr__(self, "origin", printable(self.origin))
        for name in ARRAYS:
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, checks.as_tensor(name, value))
        stages = {"train": (self.train_inputs, self.train_targets), "test": (self.test_inputs, self.test_targets)}
        has_val = [values is not None for values in (self.val_inputs, self.val_targets)]
        require(all(has_val) or not any(has_val), "val_inputs and val_targets belong together; return both or none")
        if all(has_val):
            stages["val"] = self.val_inputs, self.val_targets
        checks.check_shapes(stages)
        del stages["test"]  # whose values stay unread until they are tested on
        for stage, arrays in stages.items():
            checks.check_values(stage, *arrays, self.class_names)
        checks.check_class_names(self.class_names, self.train_targets)
        checks.check_order(self.groups, self.times, len(self.train_inputs))
