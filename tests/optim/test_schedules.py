import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from athanor.optim import schedules

TOTAL, PER_EPOCH, LR = 103, 10, 0.3


def half_cosine(share):
    return (1 - math.cos(math.pi * share)) / 2


def one_cycle(t, start=0.04, peak_at=0.25, floor=1e-3):
    if t < peak_at:
        return start + (1 - start) * half_cosine(t / peak_at)
    return 1 - (1 - floor) * half_cosine((t - peak_at) / (1 - peak_at))


# knobs, and the factor at time t
CLOSED_FORMS = {
    "constant": (dict(), lambda t: 1.0),
    "step": (dict(every=0.25, gamma=0.5), lambda t: 0.5 ** int(t / 0.25)),
    "multistep": (dict(milestones=[0.5, 0.75], gamma=0.1), lambda t: 1.0 if t < 0.5 else 0.1 if t < 0.75 else 0.01),
    "exponential": (dict(gamma=0.9), lambda t: math.exp(t * math.log(0.9))),
    "polynomial": (dict(power=1.5, floor=0.02), lambda t: 0.02 + 0.98 * math.sqrt(1 - t) ** 3),
    "cosine": (dict(floor=0.02), lambda t: 0.02 + 0.98 * (1 - half_cosine(t))),
    "one_cycle": (dict(start=0.04, peak_at=0.25, floor=1e-3), one_cycle),
}


def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], LR)


def factors(factor, unit, total=TOTAL, per_epoch=PER_EPOCH):
    """The learning rate that each step of a run is made with, over the configured one."""
    optim = optimizer()
    scheduler, interval = schedules.build(factor, unit, optim, total, per_epoch)
    assert interval == "step"
    rates = []
    for _ in range(total):
        rates.append(optim.param_groups[0]["lr"] / LR)
        optim.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("unit, scale", [("fraction", TOTAL - 1), ("epochs", PER_EPOCH), ("steps", 1)])
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_every_closed_form_equals_its_formula_at_every_step(name, unit, scale):
    knobs, formula = CLOSED_FORMS[name]
    total = TOTAL
    if unit != "fraction" and name in ("polynomial", "cosine", "one_cycle"):
        total = scale + 1  # they end at t = 1
    found = factors(partial(getattr(schedules, name), **knobs), unit, total)
    assert found == pytest.approx([formula(step / scale) for step in range(total)], rel=0, abs=1e-12)


def test_step_and_multistep_drop_at_whole_epochs():
    found = factors(partial(schedules.step, every=3, gamma=0.1), "epochs")
    assert [found.index(pytest.approx(0.1**n)) for n in range(4)] == [0, 30, 60, 90]
    found = factors(partial(schedules.multistep, milestones=[2, 7], gamma=0.1), "epochs")
    assert [found.index(pytest.approx(0.1**n)) for n in range(3)] == [0, 20, 70]


@pytest.mark.parametrize("every", [0.1, 0.2, 0.3, 0.7])
def test_step_drops_at_multiples_that_floating_point_cannot_hold(every):
    """0.3 / 0.1 is 2.9999999999999996"""
    found = factors(partial(schedules.step, every=every, gamma=0.5), "fraction", total=101)
    expected = [0.5 ** (step // round(100 * every)) for step in range(101)]
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["cosine", "one_cycle", "polynomial"])
@pytest.mark.parametrize("floor", [0.0, 0.1])
@pytest.mark.parametrize("total", [2, 7, 1000])
def test_the_last_step_is_made_with_the_floor_exactly(name, floor, total):
    further = {"one_cycle": dict(start=0.04, peak_at=0.3), "polynomial": dict(power=0.5)}
    knobs = dict(floor=floor) | further.get(name, {})
    assert factors(partial(getattr(schedules, name), **knobs), "fraction", total)[-1] == pytest.approx(floor, abs=1e-16)


@pytest.mark.parametrize("peak_at", [0.0, 0.3, 0.5, 1.0])
def test_one_cycle_peaks_at_its_peak_with_the_configured_rate(peak_at):
    found = factors(partial(schedules.one_cycle, start=0.04, peak_at=peak_at, floor=0.0), "fraction", total=101)
    peak = round(100 * peak_at)
    assert found[peak] == max(found) == 1
    assert found[:peak] == sorted(found[:peak])
    assert found[peak:] == sorted(found[peak:], reverse=True)
    assert found[0] == pytest.approx(0.04 if peak else 1)


@pytest.mark.parametrize("power", [0.5, 1, 2.0])
@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_polynomial_falls_from_the_configured_rate_to_its_floor(power, floor):
    found = factors(partial(schedules.polynomial, power=power, floor=floor), "fraction", total=101)
    assert (found[0], found[-1]) == (1, pytest.approx(floor, abs=1e-16))
    assert all(earlier > later for earlier, later in pairwise(found))
    assert found[50] == pytest.approx(floor + (1 - floor) * 2**-power)
    if power == 1:
        falls = [earlier - later for earlier, later in pairwise(found)]
        assert falls == pytest.approx([(1 - floor) / 100] * 100)


@pytest.mark.parametrize("power", [0, -1, 0.0])
def test_a_power_that_does_not_fall_is_refused(power):
    with pytest.raises(ValueError, match=rf"^scheduler\.power={power} must be positive; 1 is linear$"):
        factors(partial(schedules.polynomial, power=power, floor=0.0), "fraction")


@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_polynomial_stays_at_its_floor_once_it_is_there(power):
    """Beyond t = 1, as with scheduler.unit=epochs, a root is complex, a line negative and a parabola grows."""
    found = factors(partial(schedules.polynomial, power=power, floor=0.1), "epochs", total=35)
    assert found[10:] == pytest.approx([0.1] * 25)


def test_a_schedule_stays_at_its_end_and_a_run_of_one_step_has_its_start():
    found = factors(partial(schedules.cosine, floor=0.1), "fraction", total=1)
    assert found == [1]
    by_step = schedules.by_step(partial(schedules.cosine, floor=0.1), "fraction", 10, 5)
    assert by_step(9) == by_step(10) == by_step(99) == pytest.approx(0.1)


@pytest.mark.parametrize("unit, interval", [("epochs", "epoch"), ("steps", "step")])
def test_schedulers_of_torch_move_by_their_unit(unit, interval):
    scheduler, found = schedules.build(partial(StepLR, step_size=2), unit, optimizer(), math.inf, PER_EPOCH)
    assert isinstance(scheduler, StepLR)
    assert found == interval


@pytest.mark.parametrize("scheduler", [partial(StepLR, step_size=2), partial(ReduceLROnPlateau)])
def test_schedulers_of_torch_do_not_take_fractions(scheduler):
    with pytest.raises(ValueError, match=r"scheduler\.unit=fraction does not fit \w+; use epochs or steps"):
        schedules.build(scheduler, "fraction", optimizer(), TOTAL, PER_EPOCH)


def test_plateau_counts_epochs_only():
    with pytest.raises(ValueError, match=r"scheduler\.unit=steps does not fit ReduceLROnPlateau; use epochs"):
        schedules.build(partial(ReduceLROnPlateau), "steps", optimizer(), TOTAL, PER_EPOCH)


def test_a_fraction_of_an_endless_run_is_refused():
    cosine = partial(schedules.cosine, floor=0.0)
    with pytest.raises(ValueError, match=r"needs the length of the run; set trainer\.max_epochs or trainer\.max_steps"):
        schedules.build(cosine, "fraction", optimizer(), math.inf, PER_EPOCH)
    scheduler, _ = schedules.build(partial(schedules.exponential, gamma=0.9), "epochs", optimizer(), math.inf, 10)
    assert scheduler.get_last_lr() == [LR]
