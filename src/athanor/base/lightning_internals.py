"""Every use of a private name of Lightning or torch, and of behaviour that their documentation does not promise.

Nothing private is used elsewhere in this package. Each function says why it is needed, and
tests/base/test_lightning_internals.py says for each what breaks if a new version of Lightning or torch changes it.
Lightning is not imported here, because models may import this file and work without Lightning.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

# torch: optimizers and modules


class StaysFloat32(nn.Module):
    """A module whose tensors follow it to another device but keep their precision: float32 stays float32.

    `to`, `half`, `bfloat16` and `double` of a module and of all modules around it go through `nn.Module._apply`, and
    torch has no public method that a module can override to keep its precision.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)


def momentum_directions(grads: list[Tensor], buffers: list[Tensor], momentum: float, nesterov: bool) -> list[Tensor]:
    """Set buffer = momentum * buffer + grad in place, and give buffer, or grad + momentum * buffer with `nesterov`.

    torch._foreach_mul_ and torch._foreach_add_ do this for all weights in a few launches of a GPU kernel; public
    functions need several launches for each weight. The result may be the list `buffers` itself.
    """
    torch._foreach_mul_(buffers, momentum)
    torch._foreach_add_(buffers, grads)
    return torch._foreach_add(grads, buffers, alpha=momentum) if nesterov else buffers


def scale_tensors(tensors: list[Tensor], factors: float | list[Tensor]) -> None:
    """Multiply each tensor in place by one number, or by its own: torch._foreach_mul_, a few launches for all."""
    torch._foreach_mul_(tensors, factors)


def norms_of_tensors(tensors: list[Tensor]) -> list[Tensor]:
    """The Euclidean norm of each tensor: torch._foreach_norm, a few launches of a GPU kernel for all of them."""
    return list(torch._foreach_norm(tensors))


def names_of_rates(scheduler: LRScheduler) -> list[str]:
    """The attributes in which a scheduler keeps one learning rate for each parameter group.

    `_last_lr` among them is what get_last_lr() returns, and torch has no public method that sets it; a change of the
    rates in the middle of a run must reach it too. (ReduceLROnPlateau's min_lrs is a lower limit, no rate.)
    """
    return [name for name in ("base_lrs", "max_lrs", "_last_lr") if hasattr(scheduler, name)]


def parts_of_scheduler(scheduler: LRScheduler) -> list[LRScheduler]:
    """The schedulers that a SequentialLR or a ChainedScheduler is made of: only its `_schedulers` has them."""
    return list(getattr(scheduler, "_schedulers", ()))
