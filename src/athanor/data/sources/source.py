"""What every data set becomes: arrays of inputs and targets."""

from dataclasses import dataclass

from torch import Tensor

from athanor.base.text import printable


@dataclass(frozen=True)
class Source:
    """Images uint8 [N, C, H, W] (C is 1 or 3, RGB order), and targets of them.

    Targets are what the task takes: class indices, int64 [N] in 0..len(class_names)-1, for task=classification. Targets
    of another type are split at random and not by class, and class_names may then be empty.
    Control characters in a class name become escapes, as `\\n`: names reach screens, tables and the names of metrics.
    The arrays may be memory-mapped. `test_*` is the official test set, which is read once, after training.
    `val_*` is an official validation set, where there is one: then all training inputs are trained on.
    `groups` int64 [N] and `times` [N] are of the training inputs: those of one group (a patient, a writer) are never
    in train and in validation; of inputs with times, validation has the latest.
    `origin` says in one line which files these are; it goes into the results of a run.

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

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_names", tuple(map(printable, self.class_names)))
        object.__setattr__(self, "origin", printable(self.origin))
