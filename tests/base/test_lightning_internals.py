"""Each test fails with the sentence that says why the private name is used, and so what breaks without it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn, optim
from torch.optim import lr_scheduler

from athanor.base import lightning_internals as internals

# torch: optimizers and modules


@contextmanager
def explained_by(subject: Callable) -> Iterator[None]:
    """What fails in the block fails with the docstring of `subject`."""
    try:
        yield
    except Exception as error:
        pytest.fail(f"{subject.__name__}: {subject.__doc__}\n{type(error).__name__}: {error}")


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in [(3, 4), (5,), (2, 3, 2)]]


@pytest.mark.parametrize("move", [lambda m: m.to(torch.bfloat16), nn.Module.half, nn.Module.double, nn.Module.bfloat16])
def test_a_module_stays_float32_and_follows_to_a_device(move):
    class Fitted(internals.StaysFloat32):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.tensor([123.456]))

    with explained_by(internals.StaysFloat32):
        owner = move(nn.Sequential(Fitted(), nn.Linear(1, 1)))
        assert owner[0].mean.equal(torch.tensor([123.456]))
        assert owner[1].weight.dtype != torch.float32
        assert owner.to("meta")[0].mean.device.type == "meta"


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_of_all_weights_is_that_of_each(nesterov, tensors):
    buffers, before = [tensor.flip(0).clone() for tensor in tensors], [tensor.flip(0).clone() for tensor in tensors]
    with explained_by(internals.momentum_directions):
        directions = internals.momentum_directions(tensors, buffers, 0.9, nesterov)
        for grad, buffer, old, direction in zip(tensors, buffers, before, directions, strict=True):
            assert torch.equal(buffer, 0.9 * old + grad)
            torch.testing.assert_close(direction, grad + 0.9 * buffer if nesterov else buffer)


@pytest.mark.parametrize("factors", [0.3, [torch.tensor(0.3), torch.tensor(-2.0), torch.tensor(0.0)]], ids=str)
def test_tensors_are_scaled_in_place(factors, tensors):
    before = [tensor.clone() for tensor in tensors]
    with explained_by(internals.scale_tensors):
        internals.scale_tensors(tensors, factors)
        each = factors if isinstance(factors, list) else [factors] * len(tensors)
        assert all(torch.equal(tensor, factor * old) for tensor, factor, old in zip(tensors, each, before, strict=True))


def test_norms_are_euclidean(tensors):
    with explained_by(internals.norms_of_tensors):
        torch.testing.assert_close(internals.norms_of_tensors(tensors), [tensor.norm() for tensor in tensors])


RATES = {
    "ExponentialLR": (lambda o: lr_scheduler.ExponentialLR(o, 0.9), {"base_lrs", "_last_lr"}),
    "CyclicLR": (lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1), {"base_lrs", "max_lrs", "_last_lr"}),
    "ReduceLROnPlateau": (lr_scheduler.ReduceLROnPlateau, {"_last_lr"}),
}


@pytest.mark.parametrize("name", RATES)
def test_a_scheduler_keeps_its_rates_under_the_known_names(name):
    make, names = RATES[name]
    scheduler = make(optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9))
    with explained_by(internals.names_of_rates):
        assert names <= set(internals.names_of_rates(scheduler))
        scheduler._last_lr = [0.5]
        assert scheduler.get_last_lr() == [0.5]


@pytest.mark.filterwarnings("ignore:The epoch parameter")  # torch's, of its own SequentialLR
@pytest.mark.parametrize(
    "make",
    [lambda o, parts: lr_scheduler.SequentialLR(o, parts, [2]), lambda o, parts: lr_scheduler.ChainedScheduler(parts)],
)
def test_the_parts_of_a_composed_scheduler_are_known(make):
    optimizer = optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    parts = [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    with explained_by(internals.parts_of_scheduler):
        assert internals.parts_of_scheduler(make(optimizer, parts)) == parts
        assert internals.parts_of_scheduler(parts[0]) == []
