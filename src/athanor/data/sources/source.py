"""What every data set becomes: arrays of images and labels."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Source:
    """Images uint8 [N, C, H, W] (C is 1 or 3, RGB order) and labels int64 [N] in 0..len(class_names)-1.

    The arrays may be memory-mapped. `test_*` is the official test set, which is read once, after training.
    `origin` says in one line which files these are; it goes into the results of a run.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    class_names: tuple[str, ...]
    origin: str
