"""Estimates the statistics of batch norm layers again, for weights that these do not belong to."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm


@contextmanager
def new_statistics(network: nn.Module) -> Iterator[dict[str, BatchNorm]]:
    """Forward passes inside the `with` block set the running mean and variance: the plain mean over all batches.

    Gives the batch norm layers that keep statistics, by their names in `network`. Only these layers are in train mode,
    so dropout is off. Afterwards the mode of each module and the layers' `momentum` and `num_batches_tracked` are what
    they were before.
    """
    norms = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, BatchNorm) and module.track_running_stats
    }
    modes = {module: module.training for module in network.modules()}
    network.eval()
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms.values()]
    for norm in norms.values():
        norm.reset_running_stats()
        norm.train().momentum = None  # torch's word for a plain mean over all batches
    try:
        yield norms
    finally:
        for norm, (momentum, num_batches) in zip(norms.values(), before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(num_batches)
        for module, mode in modes.items():
            module.training = mode
