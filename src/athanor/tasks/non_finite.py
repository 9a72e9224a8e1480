"""Finds the first value that is not finite (nan or infinite) in a network, after a training run has failed by one."""

import contextlib
from collections.abc import Callable, Iterator
from types import MethodType

import torch
from torch import Tensor, nn

USELESS_LOSS = 1e6  # multiple of the loss of guessing, above which a person is warned


class NonFiniteValue(Exception):  # noqa: N818  # raised to end the forward pass, not to report an error
    """The place at which a forward pass produced the first value that is not finite."""


def first_non_finite(module: nn.Module, forward: Callable[[], object] | None = None) -> str | None:
    """A phrase that names the first parameter of `module` with non-finite values, else the first input or output of
    one of its submodules while `forward()` runs; None if all are finite.

    forward: repeats the forward pass that failed; None looks at the parameters only. Never raises, and leaves buffers
    and random number generators as they were. Each process looks for itself: a collective operation would wait for the
    processes that have nothing to report.
    """
    try:
        parameters = dict(module.named_parameters())
        broken = [name for name, parameter in parameters.items() if not is_finite(parameter)]
        if broken:
            place = f"parameter {broken[0]} ({len(broken)} of {len(parameters)} parameters have some)"
        else:
            place = _first_in_forward(module, forward) if forward else None
        return place and f"first non-finite values: {place}"
    except Exception as error:  # by a person's own model, or for lack of memory: the loss must be reported all the same
        return f"no look at its layers, for {type(error).__name__}"


def place_of_loss(task: nn.Module, loss: nn.Module, forward: Callable[[], object] | None) -> str:
    """A phrase that says where the first value that is not finite arose, of which `loss` made one more.

    forward: repeats the forward pass, as in `first_non_finite`.
    """
    if place := first_non_finite(task, forward):
        return place
    if forward is None:
        return "the parameters are finite"
    return f"first non-finite values: the loss itself ({type(loss).__name__}), of outputs that are finite"


def useless_loss(loss: float, guessing: float | None) -> str | None:
    """A warning about a loss that is finite but more than a million times that of guessing; None for none."""
    if guessing is None or not loss > USELESS_LOSS * guessing:
        return None
    return f"warning: the train loss is {loss:.3g}, and guessing gives {guessing:.3g}; try a smaller optim.lr"


def is_finite(values: object) -> bool:
    """Whether all tensors are finite, also those within lists, tuples and dictionaries."""
    if isinstance(values, Tensor):
        return bool(values.isfinite().all())
    if isinstance(values, dict):
        values = tuple(values.values())
    return not isinstance(values, (list, tuple)) or all(map(is_finite, values))


def _first_in_forward(module: nn.Module, forward: Callable[[], object]) -> str | None:
    names = {submodule: name for name, submodule in module.named_modules() if name}

    def check(submodule: nn.Module, inputs: tuple, output: object) -> None:
        layer = f"{names[submodule]} ({type(submodule).__name__})"
        if not is_finite(inputs):  # produced by operations between two modules
            raise NonFiniteValue(f"input of {layer}")
        if not is_finite(output):
            raise NonFiniteValue(f"output of {layer}")

    hooks = [submodule.register_forward_hook(check) for submodule in names]
    try:
        with torch.no_grad(), _state_kept(module), torch.compiler.set_stance("force_eager"):
            forward()
    except NonFiniteValue as place:
        return str(place)
    finally:
        for hook in hooks:
            hook.remove()
    return None


@contextlib.contextmanager
def _state_kept(module: nn.Module) -> Iterator[None]:
    """Restore buffers and random number generators at the end; within, SyncBatchNorm uses this process's batch only."""
    buffers = {buffer: buffer.clone() for buffer in module.buffers()}
    synchronised = [submodule for submodule in module.modules() if isinstance(submodule, nn.SyncBatchNorm)]
    for norm in synchronised:
        norm.forward = MethodType(nn.BatchNorm1d.forward, norm)  # which is the same for any number of dimensions
    devices = {parameter.device for parameter in module.parameters() if parameter.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        for norm in synchronised:
            del norm.forward
        for buffer, before in buffers.items():
            buffer.copy_(before)
