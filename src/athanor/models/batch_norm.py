"""Batch norm's statistics anew, for weights that no training has seen: means of others'."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def norms_of(network: nn.Module) -> dict[str, _BatchNorm]:
    """The layers that keep statistics, by name."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    }


@contextmanager
def estimated(network: nn.Module) -> Iterator[dict[str, _BatchNorm]]:
    """Within it, whatever the network is shown becomes its statistics: the plain mean over all batches.

    These layers alone are in train mode, no dropout is. Counters and momentum are what they were at the end.
    """
    norms = norms_of(network)
    network.eval()
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms.values()]
    for norm in norms.values():
        norm.reset_running_stats()
        norm.train().momentum = None
    try:
        yield norms
    finally:
        for norm, (momentum, seen) in zip(norms.values(), before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(seen)
        network.eval()
