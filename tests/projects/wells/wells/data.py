"""Measurements of wells: a file of floats for each site."""

from pathlib import Path

import numpy as np

from athanor.data.sources.source import Source


def wells(root: str) -> Source:
    """The wells of the sites that the folder has; of the last one they are the test set."""
    files = [np.load(path) for path in sorted(Path(root).glob("*.npz"))]
    *train, test = [(file["measured"], file["is_polluted"].astype("int64")) for file in files]
    sites = np.repeat(np.arange(len(train)), [len(targets) for _, targets in train])
    inputs, targets = (np.concatenate(arrays) for arrays in zip(*train, strict=True))
    return Source(inputs, targets, *test, ("clean", "polluted"), f"wells in {root}", groups=sites)
