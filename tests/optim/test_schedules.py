"""Schedules with an optimizer alone; test_schedules_in_runs.py tests them in real runs."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from formulas import ENDING, FALLING, FLOORS, FORMS, UNITS, factors, knobs_of, plain, whole
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from athanor.base.errors import UserError
from athanor.engine.config import assemble, check
from athanor.optim import schedulers, schedules
from athanor.optim.scaling import LRScaling
from athanor.optim.schedules import RunLength, Schedule

TOTAL, PER_EPOCH, LR = 103, 10, 0.3
RUN = RunLength(TOTAL, PER_EPOCH)
# warmup and warmup_unit, and how many steps they are
WARMUPS = {(7, "steps"): 7, (1.25, "epochs"): 12, (0.2, "fraction"): 21, (0, None): 0}


def sgd(**knobs):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], LR, **knobs)


def rates(schedule, run=RUN, optimizer=None):
    """For each step of a run: its learning rate, divided by the configured one, and its momentum."""
    optimizer = optimizer or sgd()
    schedulers = schedule.schedulers(optimizer, run)
    points = []
    for _ in range(run.steps):
        group = optimizer.param_groups[0]
        points.append((group["lr"] / LR, group["momentum"]))
        optimizer.step()
        for scheduler, interval in schedulers:
            assert interval == "step"
            scheduler.step()
    return points


def lrs(factor, run=RUN, **settings):
    return [lr for lr, _ in rates(Schedule(factor, **settings), run)]


def of(name, **knobs):
    """The function of a schedule with the settings of formulas.py, except for `knobs`."""
    known = {k: v for k, v in FORMS[name][0].items() if k != "length"}
    return partial(getattr(schedules, {"one_over_t": "inverse", "step": "step_decay"}.get(name, name)), **known | knobs)


@pytest.mark.parametrize("warmup", WARMUPS, ids=str)
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", FORMS)
def test_every_closed_form_equals_its_formula_at_every_step(name, unit, warmup):
    knobs = plain(knobs_of(name, unit, TOTAL, PER_EPOCH))
    if name == "one_over_t":
        knobs["power"] = 1.0
    length = knobs.pop("length", None)
    amount, warmup_unit = warmup
    curve = lrs(of(name, **knobs), unit=unit, length=length, warmup=amount, warmup_unit=warmup_unit)
    expected = factors(name, unit, TOTAL, PER_EPOCH, WARMUPS[warmup])
    assert curve == pytest.approx(expected, rel=0, abs=1e-12)


@pytest.mark.parametrize("name", FORMS)
def test_every_option_builds_the_form_of_its_name(name, compose):
    config = check.plain(compose(f"scheduler={name}", "scheduler.warmup=3", "scheduler.warmup_unit=steps"))
    schedule = assemble.schedule(config)
    curve = [lr for lr, _ in rates(schedule)]
    assert curve[:3] == pytest.approx([share * curve[3] for share in (1 / 4, 2 / 4, 3 / 4)])
    assert max(curve) == pytest.approx(1, abs=1e-3) or name in (
        "exponential",
        "inverse",
        "one_over_t",
    )  # these have fallen by then
    forms = {
        "constant": lambda t: 1,
        "step": lambda t: 0.1 ** math.floor(t / 0.34),
        "multistep": lambda t: 0.1 ** ((t >= 0.5) + (t >= 0.75)),
        "exponential": lambda t: 0.9 ** (t * (TOTAL - 1) / PER_EPOCH),
        "inverse": lambda t: (1 + 10 * t) ** -0.75,
        "one_over_t": lambda t: 1 / (1 + 10 * t),
    }
    last = TOTAL if name in FALLING else TOTAL - 1
    if name in forms:
        assert curve[3:] == pytest.approx([forms[name](s / last) for s in range(3, TOTAL)], abs=1e-12)
    else:
        assert curve[-1] == pytest.approx(schedule.factor.keywords["floor"], abs=1e-16)


@pytest.mark.parametrize("warmup", [0, 0.3])
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", ENDING)
def test_the_last_step_is_made_with_the_floor_exactly(name, unit, warmup):
    for steps in 7, 103, 1000:
        length = float(whole(unit, steps, PER_EPOCH))
        curve = lrs(
            of(name), RunLength(steps, PER_EPOCH), unit=unit, length=length, warmup=warmup, warmup_unit="fraction"
        )
        assert curve[-1] * LR == pytest.approx(FLOORS[name] * LR, rel=1e-15)
        curve = lrs(of(name, floor=0.0), RunLength(steps, PER_EPOCH), unit=unit, length=length)
        assert curve[-1] == 0.0


@pytest.mark.parametrize("name", ENDING)
def test_what_is_shorter_than_the_run_stays_at_its_floor(name):
    curve = lrs(of(name), unit="epochs", length=4, warmup=5, warmup_unit="steps")
    assert curve[:40] == pytest.approx(factors(name, "steps", 40, PER_EPOCH, 5), abs=1e-12)
    assert curve[40:] == [curve[39]] * (TOTAL - 40)
    assert curve[39] == pytest.approx(FLOORS[name], abs=1e-15)


@pytest.mark.parametrize("every", [0.1, 0.2, 0.3, 0.7])
def test_step_drops_at_multiples_that_floating_point_cannot_hold(every):
    """0.3 / 0.1 is 2.9999999999999996"""
    curve = lrs(partial(schedules.step_decay, every=every, gamma=0.5), RunLength(100, 10), unit="fraction")
    assert curve == pytest.approx([0.5 ** (step // round(100 * every)) for step in range(100)], rel=1e-12)


def test_step_and_multistep_drop_at_whole_epochs():
    curve = lrs(partial(schedules.step_decay, every=3, gamma=0.1))
    assert [curve.index(pytest.approx(0.1**n)) for n in range(4)] == [0, 30, 60, 90]
    curve = lrs(partial(schedules.multistep, milestones=[2, 7], gamma=0.1))
    assert [curve.index(pytest.approx(0.1**n)) for n in range(3)] == [0, 20, 70]


@pytest.mark.parametrize("peak_at", [0.0, 0.3, 0.5, 1.0])
def test_one_cycle_peaks_at_its_peak_with_the_configured_rate(peak_at):
    curve = lrs(of("one_cycle", peak_at=peak_at), RunLength(101, 10), unit="fraction", length=1.0)
    peak = round(100 * peak_at)
    assert curve[peak] == max(curve) == 1
    assert curve[:peak] == sorted(curve[:peak])
    assert curve[peak:] == sorted(curve[peak:], reverse=True)


def test_a_run_of_one_step_has_the_start_of_its_schedule():
    assert lrs(of("cosine"), RunLength(1, 1), unit="fraction", length=1.0) == [1]


def test_a_warm_up_may_leave_two_steps_and_no_less():
    curve = lrs(of("cosine", floor=0.0), RunLength(12, 4), unit="fraction", length=1.0, warmup=10, warmup_unit="steps")
    assert curve == pytest.approx([*((s + 1) / 11 for s in range(10)), 1, 0])
    with pytest.raises(UserError, match=r"^scheduler\.warmup=11 \(11 steps\) is 11 steps, and the run has 12; use a"):
        lrs(of("cosine"), RunLength(12, 4), unit="fraction", length=1.0, warmup=11, warmup_unit="steps")


# against torch: its T_max and total_steps count to the step after the last one


def of_torch(make, steps):
    optimizer = sgd(momentum=0.9)
    scheduler, points = make(optimizer), []
    for _ in range(steps):
        points.append((optimizer.param_groups[0]["lr"] / LR, optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        scheduler.step()
    return points


IN_TORCH = {  # schedules of ours and of torch with the same values
    "cosine": (
        Schedule(partial(schedules.cosine, floor=0.1), "fraction", 1.0),
        partial(lr_scheduler.CosineAnnealingLR, T_max=TOTAL - 1, eta_min=0.1 * LR),
    ),
    "polynomial": (
        Schedule(partial(schedules.polynomial, power=2.5, floor=0.0), "fraction", 1.0),
        partial(lr_scheduler.PolynomialLR, total_iters=TOTAL - 1, power=2.5),
    ),
    "step": (
        Schedule(partial(schedules.step_decay, every=30, gamma=0.3), "steps"),
        partial(StepLR, step_size=30, gamma=0.3),
    ),
    "multistep": (
        Schedule(partial(schedules.multistep, milestones=[20, 80], gamma=0.3), "steps"),
        partial(lr_scheduler.MultiStepLR, milestones=[20, 80], gamma=0.3),
    ),
    "exponential": (
        Schedule(partial(schedules.exponential, gamma=0.97), "steps"),
        partial(lr_scheduler.ExponentialLR, gamma=0.97),
    ),
    "cosine_restarts": (  # cycles of 15, 30 and 60 steps
        Schedule(partial(schedules.cosine_restarts, cycles=3, growth=2.0, floor=0.1), "steps", 106),
        partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=15, T_mult=2, eta_min=0.1 * LR),
    ),
    "one_cycle": (
        Schedule(
            partial(schedules.one_cycle, start=0.04, peak_at=30.9 / 102 - 1 / 102, floor=0.04 / 1e4),
            "fraction",
            1.0,
            momentum=partial(schedules.cycle, high=0.95, low=0.85, peak_at=30.9 / 102 - 1 / 102),
        ),
        partial(lr_scheduler.OneCycleLR, max_lr=LR, total_steps=TOTAL, pct_start=0.3),
    ),
}


@pytest.mark.parametrize("name", IN_TORCH)
def test_our_schedules_equal_those_of_torch_that_mean_the_same(name):
    ours, theirs = IN_TORCH[name]
    points, expected = rates(ours, optimizer=sgd(momentum=0.9)), of_torch(theirs, TOTAL)
    for (lr, momentum), (lr_of_torch, momentum_of_torch) in zip(points, expected, strict=True):
        assert lr == pytest.approx(lr_of_torch, rel=0, abs=1e-9)
        assert momentum == pytest.approx(momentum_of_torch, rel=0, abs=1e-9)


# schedulers of torch


@pytest.mark.parametrize("unit, interval", [("epochs", "epoch"), ("steps", "step")])
def test_schedulers_of_torch_move_by_their_unit(unit, interval):
    [(scheduler, moved_at)] = Schedule(partial(StepLR, step_size=2), unit).schedulers(sgd(), RunLength(math.inf, 10))
    assert isinstance(scheduler, StepLR)
    assert moved_at == interval


def test_a_plateau_gets_its_warm_up_beside_it():
    pairs = Schedule(partial(ReduceLROnPlateau), warmup=2).schedulers(sgd(), RUN)
    assert [(type(scheduler), interval) for scheduler, interval in pairs] == [
        (schedulers.WarmUp, "step"),
        (ReduceLROnPlateau, "epoch"),
    ]
    assert pairs[0][0].steps == 20


# momentum


def test_momentum_ends_where_its_length_does_and_warm_ups_leave_it_alone():
    rise = partial(schedules.rise, start=0.5, end=0.9)
    schedule = Schedule(of("constant"), momentum=rise, momentum_length=0.5, warmup=2)
    momenta = [momentum for _, momentum in rates(schedule)]
    assert momenta == pytest.approx([0.5 + 0.4 * min(s / 51, 1) for s in range(TOTAL)], abs=1e-12)


def test_a_beta_that_changes_is_refused_as_it_would_break_the_bias_correction():
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], LR)
    schedule = Schedule(of("constant"), momentum=partial(schedules.rise, start=0.5, end=0.9))
    with pytest.raises(UserError, match=r"Adam takes its beta1 for constant \(bias correction\); use optim=momentum"):
        schedule.schedulers(optimizer, RUN)


@pytest.mark.parametrize("every", [0.25, 0.5, 1.0])
def test_a_period_that_divides_the_run_makes_no_drop_for_the_very_last_step(every):
    for total in 7, 40, 1000:
        curve = lrs(partial(schedules.step_decay, every=every, gamma=0.1), RunLength(total, 10), unit="fraction")
        assert curve[-1] == pytest.approx(0.1 ** (1 / every - 1))
    with pytest.raises(UserError, match="are not in the run"):
        lrs(partial(schedules.multistep, milestones=[0.5, 1.0], gamma=0.1), unit="fraction")


@pytest.mark.parametrize("unit", ["epochs", "steps", "fraction"])
def test_a_length_of_a_falling_function_has_no_drop_at_its_end(unit):
    length = {"epochs": 4.0, "steps": 40.0, "fraction": 0.4}[unit]
    curve = lrs(partial(schedules.step_decay, every=0.5, gamma=0.1), RunLength(100, 10), unit=unit, length=length)
    assert curve == pytest.approx([1.0] * 20 + [0.1] * 80)


@pytest.mark.parametrize("optim", [torch.optim.Adagrad, torch.optim.LBFGS])
def test_momentum_is_refused_where_there_is_none(optim):
    optimizer = optim([torch.nn.Parameter(torch.zeros(1))], LR)
    schedule = Schedule(of("constant"), momentum=partial(schedules.rise, start=0.5, end=0.9))
    with pytest.raises(UserError, match=rf"^scheduler\.momentum: {optim.__name__} has none; use optim=momentum, or"):
        schedule.schedulers(optimizer, RUN)


def test_rmsprop_is_not_begun_without_momentum_that_it_could_not_have_later():
    optimizer = torch.optim.RMSprop([torch.nn.Parameter(torch.zeros(1))], LR)
    schedule = Schedule(of("constant"), momentum=partial(schedules.rise, start=0.0, end=0.9))
    with pytest.raises(
        ValueError, match=r"^scheduler\.momentum: RMSprop cannot begin with 0; use scheduler\.momentum\.st"
    ):
        schedule.schedulers(optimizer, RUN)


# wrong settings are refused before the first step

RISE = partial(schedules.rise, start=0.5, end=0.99)
WRONG = [
    (Schedule(of("cosine"), warmup=11), "scheduler.warmup=11 (11 epochs) is 110 steps, and the run has 103; use a"),
    (Schedule(of("cosine"), "fraction", warmup=1), "scheduler.warmup=1 (1 of the run) is 103 steps, and the run has"),
    (Schedule(of("constant"), warmup=-1), "scheduler.warmup=-1 is negative; use 0 or more"),
    (Schedule(of("cosine"), length=0.5, warmup=1), "scheduler.length=0.5 ends within the warm-up; use a longer length"),
    *((Schedule(of(name), length=-1), "scheduler.length=-1 must be positive") for name in ENDING),
    *((Schedule(of(name, floor=-0.1), length=1), "scheduler.floor=-0.1 is not a fraction; use") for name in ENDING),
    *((Schedule(of(n, floor=-0.1), length=5, warmup=1), "scheduler.floor=-0.1 is not a fraction") for n in ENDING),
    (Schedule(of("cosine", floor=2), length=1), "scheduler.floor=2 is not a fraction; use 0 to 1"),
    *((Schedule(of(n, gamma=-1)), "scheduler.gamma=-1 must be positive") for n in ("exponential", "inverse")),
    (Schedule(of("step", every=1, gamma=0)), "scheduler.gamma=0 must be positive"),
    (Schedule(of("step", every=-2)), "scheduler.every=-2 must be positive"),
    (Schedule(of("inverse", power=-1), warmup=2), "scheduler.power=-1 must be positive"),
    (Schedule(of("polynomial", power=0), length=1), "scheduler.power=0 must be positive"),
    (Schedule(of("polynomial", power=-1), length=9, warmup=2), "scheduler.power=-1 must be positive"),
    (Schedule(of("cosine_restarts", cycles=0), length=1), "scheduler.cycles=0: use 1 or more"),
    (Schedule(of("cosine_restarts", growth=-1), length=1), "scheduler.growth=-1 must be positive"),
    (Schedule(of("one_cycle", peak_at=1.5), length=1), "scheduler.peak_at=1.5 is not a fraction; use 0 to 1"),
    (Schedule(of("one_cycle", start=-1), length=1), "scheduler.start=-1 is not a fraction; use 0 to 1"),
    (Schedule(partial(StepLR, step_size=2), warmup=1), "scheduler.warmup does not fit StepLR; compose it with torch's"),
    (Schedule(partial(StepLR, step_size=2), "fraction"), "scheduler.unit=fraction does not fit StepLR; use epochs or"),
    (Schedule(partial(StepLR, step_size=2), length=1), "scheduler.length=1 does not fit StepLR; use epochs or steps"),
    (Schedule(partial(ReduceLROnPlateau), "fraction"), "scheduler.unit=fraction does not fit ReduceLROnPlateau"),
    (Schedule(partial(ReduceLROnPlateau), "steps"), "scheduler.unit=steps does not fit ReduceLROnPlateau; use epochs"),
    (Schedule(of("constant"), momentum=RISE, momentum_length=-1), "scheduler.momentum.length=-1 must be positive"),
    (Schedule(of("constant"), momentum=partial(RISE, end=1.5)), "scheduler.momentum.end=1.5: use 0 to below 1, as 0.9"),
    (
        Schedule(of("constant"), momentum=partial(schedules.cycle, high=0.9, low=0.8, peak_at=2)),
        "scheduler.momentum.peak_at=2 is not a fraction; use 0 to 1",
    ),
    *(
        (Schedule(of("multistep", milestones=[wrong]), unit), f"scheduler.milestones=[{wrong}] are not in the run")
        for unit, late in {"fraction": 1.1, "epochs": 10.4, "steps": 104}.items()
        for wrong in (0, -1, late)
    ),
]


@pytest.mark.parametrize("schedule, message", WRONG, ids=[message for _, message in WRONG])
def test_a_wrong_schedule_is_refused_before_the_first_step(schedule, message):
    with pytest.raises(UserError) as refusal:
        schedule.schedulers(sgd(), RUN)
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule(of("cosine"), "fraction", 1.0),
        Schedule(of("exponential"), "epochs", warmup=0.1, warmup_unit="fraction"),
        Schedule(of("constant"), momentum=RISE),
    ],
)
def test_a_fraction_of_an_endless_run_is_refused(schedule):
    with pytest.raises(UserError, match=r"needs the length of the run; set trainer\.max_epochs or (trainer\.)?max_st"):
        schedule.schedulers(sgd(), RunLength(math.inf, 10))


def test_an_endless_run_may_have_epochs_and_a_warm_up_of_them():
    [(scheduler, _)] = Schedule(of("exponential"), warmup=1).schedulers(sgd(), RunLength(math.inf, 10))
    assert scheduler.get_last_lr() == [pytest.approx(LR * 0.8 / 11)]  # 0.8: of the second epoch


def test_a_trial_of_a_few_steps_finds_no_fault_with_what_would_come_later():
    late = Schedule(of("multistep", milestones=[5]), warmup=3)
    assert len(late.schedulers(sgd(), RunLength(1, 1), is_trial=True)) == 1


# the batch


@pytest.mark.parametrize("rule, factor", [("none", 1), ("linear", 4), ("sqrt", 2)])
def test_the_learning_rate_is_scaled_by_the_batch(rule, factor):
    scaling = LRScaling(rule, base_batch=64)
    assert scaling.factor(256) == factor
    assert scaling.factor(64) == 1
    assert scaling.factor(16) == pytest.approx(1 / factor)


def test_a_base_batch_of_none_is_refused():
    with pytest.raises(UserError, match=r"^optim\.base_batch=0: use 1 or more$"):
        LRScaling("linear", base_batch=0)


def test_every_fall_of_a_line_is_the_same():
    curve = lrs(partial(schedules.polynomial, power=1, floor=0.1), RunLength(101, 10), unit="fraction", length=1.0)
    assert [earlier - later for earlier, later in pairwise(curve)] == pytest.approx([0.009] * 100)


STEPS = dict(unit="steps")


@pytest.mark.parametrize(
    "factor, settings, end",
    [
        (partial(schedules.constant), dict(unit="fraction", warmup=0.1), 0),
        (of("exponential"), dict(unit="fraction"), 0),
        (of("inverse"), dict(unit="fraction"), 0),
        (of("inverse"), dict(unit="fraction", length=0.5), TOTAL / 2),
        (of("step"), dict(unit="epochs"), 0),
        (of("step"), dict(unit="fraction"), TOTAL),
        (of("multistep", milestones=[3, 7]), dict(unit="epochs"), 7 * PER_EPOCH),
        (of("polynomial"), dict(unit="fraction", length=1.0), TOTAL),
        (of("one_cycle"), dict(unit="epochs", length=4), 4 * PER_EPOCH),
        (of("cosine_restarts"), dict(unit="steps", length=50), 50),
        (partial(schedules.constant), dict(momentum=partial(schedules.rise, start=0.5, end=0.9)), TOTAL),
        (partial(StepLR, step_size=3), {}, 0),
        (partial(ReduceLROnPlateau), {}, 0),
        (partial(lr_scheduler.ExponentialLR, gamma=0.9), {}, 0),
        (partial(lr_scheduler.CosineAnnealingLR, T_max=9), {}, 9 * PER_EPOCH),
        (partial(lr_scheduler.MultiStepLR, milestones=[2, 5]), {}, 5 * PER_EPOCH),
        (partial(lr_scheduler.LinearLR), STEPS, 5),  # by default
        (partial(lr_scheduler.OneCycleLR, max_lr=1, total_steps=80), STEPS, 80),
        (partial(lr_scheduler.OneCycleLR, max_lr=1, epochs=8, steps_per_epoch=10), STEPS, 80),
    ],
)
def test_where_a_schedule_ends(factor, settings, end):
    schedule = Schedule(factor, **settings)
    assert schedule.end(RUN) == pytest.approx(end)
    if end and not schedule.momentum and not isinstance(factor.func, type):  # after it the rate stays as it is
        rates = lrs(factor, RunLength(2 * TOTAL, PER_EPOCH) if settings["unit"] != "fraction" else RUN, **settings)
        assert set(rates[math.ceil(end) :]) <= {rates[-1]}
