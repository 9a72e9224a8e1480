import pytest
import torch
from torch import nn, optim
from torch.optim import lr_scheduler

from athanor.optim import rates
from athanor.optim.groups import parameter_groups
from athanor.optim.schedulers import MomentumSchedule

SCHEDULES = {
    "none": None,
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "step": lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 20),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "linear": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=5),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=20),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=4),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.StepLR(o, 2, 0.5)], [4]
    ),
    "chained": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
}


@pytest.fixture
def network():
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def followed(network, make, change, ratio=2.0):
    """The learning rates of two groups at each of 12 steps; `change` is called before step 5."""
    groups = [{"params": network[0].parameters()}, {"params": network[1:].parameters(), "lr": 0.1 * ratio}]
    optimizer = optim.SGD(groups, lr=0.1, momentum=0.9)
    schedulers = [make(optimizer)] if make else []
    lrs = []
    for step in range(12):
        if step == 5:
            change(optimizer, schedulers)
        lrs.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return torch.tensor(lrs, dtype=torch.float64)


@pytest.mark.filterwarnings("ignore:The epoch parameter")  # torch's, of its own SequentialLR
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_goes_on_in_proportion(schedule, network):
    make = SCHEDULES[schedule]
    before = followed(network, make, lambda *_: None)
    after = followed(network, make, lambda o, s: rates.scale_lr(o, s, 0.3))
    torch.testing.assert_close(after[:5], before[:5], rtol=0, atol=0)
    torch.testing.assert_close(after[5:], before[5:] * 0.3)


def test_plateau_goes_on_from_there_to_its_floor(network):
    optimizer = optim.SGD(network.parameters(), lr=0.1)
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=0, min_lr=1e-3)
    rates.scale_lr(optimizer, [plateau], 0.5)
    lrs = []
    for _ in range(4):
        plateau.step(1.0)
        lrs.append(optimizer.param_groups[0]["lr"])
    assert lrs == pytest.approx([0.05, 0.005, 1e-3, 1e-3])
    assert plateau.get_last_lr() == lrs[-1:]


@pytest.mark.parametrize("schedule", ["none", "lambda", "step", "exponential", "cosine", "sequential"])
@pytest.mark.filterwarnings("ignore:The epoch parameter")
def test_a_group_that_is_split_trains_as_two_that_were_there_from_the_start(schedule, network):
    def trained(groups, decay):
        torch.manual_seed(0)
        nn.init.normal_(network[0].weight), nn.init.normal_(network[2].weight)
        for p in network.parameters():
            if p.ndim == 1:
                nn.init.ones_(p)
        optimizer = optim.SGD(groups, lr=0.01, momentum=0.9, weight_decay=decay)
        schedulers = [SCHEDULES[schedule](optimizer)] if SCHEDULES[schedule] else []
        if not decay:
            rates.set_weight_decay(optimizer, schedulers, 0.1)
        for _ in range(10):
            network(torch.randn(5, 4)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            for scheduler in schedulers:
                scheduler.step()
        return [p.clone() for p in network.parameters()], optimizer.state_dict(), schedulers

    split = trained(parameter_groups(network, False), 0.0)
    whole = trained(parameter_groups(network, True), 0.1)
    assert all(map(torch.equal, split[0], whole[0]))
    assert split[1]["param_groups"] == whole[1]["param_groups"]
    assert str(split[1]["state"]) == str(whole[1]["state"])
    for scheduler in rates.with_parts(split[2]):
        assert all(len(getattr(scheduler, name, "ab")) == 2 for name in ("base_lrs", "lr_lambdas", "_last_lr"))


def test_no_decay_splits_nothing(network):
    optimizer = optim.SGD(parameter_groups(network, False), lr=0.1)
    rates.set_weight_decay(optimizer, [], 0.0)
    assert len(optimizer.param_groups) == 1


def test_a_network_of_weights_alone_is_not_split():
    optimizer = optim.SGD(nn.Linear(3, 3, bias=False).parameters(), lr=0.1)
    rates.set_weight_decay(optimizer, [], 0.1)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1]


MOMENTA = [
    (optim.SGD, {"momentum": 0.9, "nesterov": True, "fused": True}),
    (optim.SGD, {"fused": True}),
    (optim.Adam, {"fused": True}),
    (optim.AdamW, {}),
    (optim.NAdam, {}),
    (optim.RMSprop, {"momentum": 0.9}),
]


@pytest.mark.parametrize("kind, knobs", MOMENTA)
def test_optimizers_step_with_a_momentum_that_was_changed_in_the_middle(kind, knobs, network):
    optimizer = kind(network.parameters(), lr=0.01, **knobs)
    for momentum in None, 0.0, 0.5:
        if momentum is not None:
            assert rates.reason_against_change(optimizer, [], "momentum") is None
            for group in optimizer.param_groups:
                rates.set_momentum(group, momentum)
            assert rates.current_value(optimizer, "momentum") == momentum
        network(torch.randn(5, 4)).square().mean().backward()
        optimizer.step()
    assert all(p.isfinite().all() for p in network.parameters())


def test_a_group_without_momentum_is_left_alone(network):
    group = optim.Adagrad(network.parameters()).param_groups[0]
    before = dict(group)
    rates.set_momentum(group, 0.5)
    assert group == before


def test_rmsprop_takes_momentum_before_its_first_step_and_not_after(network):
    optimizer = optim.RMSprop(network.parameters(), lr=0.01)
    assert rates.reason_against_change(optimizer, [], "momentum") is None
    network(torch.randn(5, 4)).square().mean().backward()
    optimizer.step()
    assert "began with it" in rates.reason_against_change(optimizer, [], "momentum")


@pytest.mark.parametrize("schedule", ["one cycle", "cyclic", "momentum", "lambda"])
def test_momentum_that_a_schedule_sets_cannot_be_changed(schedule, network):
    optimizer = optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    make = SCHEDULES | {"momentum": lambda o: MomentumSchedule(o, lambda step: 0.5)}
    reason = rates.reason_against_change(optimizer, [make[schedule](optimizer)], "momentum")
    assert reason == (None if schedule == "lambda" else "the schedule sets it at each step (scheduler.momentum)")
