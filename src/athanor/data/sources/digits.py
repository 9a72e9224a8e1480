"""Optical recognition of handwritten digits, 8x8 pixels: the test set of the UCI data, which comes with the package."""

from pathlib import Path

import numpy as np
import torch

from athanor.data.sources.source import Source
from athanor.data.split import stratified

ORIGIN = (
    "digits: the 1,797 images of scikit-learn (Alpaydin & Kaynak 1998, UCI, CC BY 4.0); "
    "a stratified fifth, drawn with seed 0, is the test set"
)


def digits() -> Source:
    with np.load(Path(__file__).with_name("digits.npz")) as arrays:
        images = torch.from_numpy(arrays["images"])[:, None]  # [1797, 1, 8, 8]
        labels = torch.from_numpy(arrays["labels"]).long()
    # There is no official test set. This one is the same for everybody, whatever data.split_seed is.
    train, test = stratified(labels, 0.2, seed=0)
    return Source(images[train], labels[train], images[test], labels[test], tuple("0123456789"), ORIGIN)
