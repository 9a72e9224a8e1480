"""The rules on curves whose answers are known, and what a sweep leaves behind: nothing."""

import itertools
import math
import random

import lightning.pytorch as L
import numpy as np
import pytest
import torch

from athanor.base.errors import UserError
from athanor.craft.lr_range import range_test
from athanor.craft.lr_range.range_test import RangeSweep, RangeTest, ladder
from athanor.data.module import ArrayData
from athanor.engine.config import assemble, check

LRS = ladder(1e-6, 10, 141)  # 20 steps a decade


def planted(loss_at, smoothing=0.0, diverged=True):
    return RangeSweep(LRS, [loss_at(math.log10(lr)) for lr in LRS], smoothing, diverged)


def test_a_ladder_multiplies_by_the_same_number_at_every_step():
    lrs = ladder(1e-6, 10, 50)
    assert (lrs[0], lrs[-1], len(lrs)) == (1e-6, pytest.approx(10), 50)
    ratios = [b / a for a, b in itertools.pairwise(lrs)]
    assert ratios == pytest.approx([ratios[0]] * 49)


def test_minimum_is_a_fifth_of_the_rate_with_the_lowest_loss():
    assert planted(lambda x: (x + 1) ** 2).minimum() == pytest.approx(2e-2)


def test_steepest_is_where_the_loss_falls_most_with_the_logarithm_of_the_rate():
    # falls most at 1e-3; the derivative by the rate itself would be steepest at the smallest rates
    sweep = planted(lambda x: 1 - math.tanh(2 * (x + 3)) + (0 if x < 0 else 9 * x))
    assert sweep.steepest() == pytest.approx(1e-3, rel=0.01)


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 0.9, 0.98])
def test_smoothing_is_debiased_from_the_first_step_on(smoothing):
    assert range_test.smoothed_losses([3.0] * 5, smoothing) == pytest.approx([3.0] * 5)
    losses = [2.0, 1.0, 4.0]
    weights = [[smoothing ** (n - i) for i in range(n + 1)] for n in range(3)]
    expected = [sum(w * x for w, x in zip(row, losses, strict=False)) / sum(row) for row in weights]
    assert range_test.smoothed_losses(losses, smoothing) == pytest.approx(expected)


def test_the_answer_is_the_median_of_the_sweeps_to_two_digits():
    sweeps = [planted(lambda x, at=at: (x - at) ** 2) for at in (-1, -1.3, 0)]
    test = RangeTest(sweeps)
    assert test.suggestion("minimum") == pytest.approx(2e-2)
    assert test.spread("minimum") == pytest.approx(10**1.3, rel=0.01)


def test_a_spread_above_ten_is_refused_with_what_to_do():
    RangeTest([planted(lambda x, at=at: (x - at) ** 2) for at in (-1.9, -1)]).check_spread("minimum")
    wide = RangeTest([planted(lambda x, at=at: (x - at) ** 2) for at in (-2.1, -1)])
    with pytest.raises(
        UserError, match=r"answer 1\.6e-03 to 2\.0e-02, a spread of 12\.6; at most 10.*\n  use .*optim\.lr"
    ):
        wide.check_spread("minimum")


@pytest.mark.parametrize(
    "loss_at, diverged, said",
    [
        (lambda x: -x, False, ["the loss still falls at 10: use a larger callbacks.lr_range.max_lr"]),
        (lambda x: x, True, ["the loss is lowest at 1e-06: use a smaller callbacks.lr_range.min_lr"]),
        (lambda x: (x + 2) ** 2, True, []),
        (lambda x: (x + 2) ** 2, False, []),
    ],
)
def test_a_minimum_at_an_end_of_the_range_is_told(loss_at, diverged, said):
    assert RangeTest([planted(loss_at, diverged=diverged)] * 3).warnings == said


WORDS = ["callbacks=[lr_range]", "callbacks.lr_range.steps=20", "callbacks.lr_range.sweeps=2", "logger=[]"]
WORDS += ["data.limit=320", "data.batch_size=32", "trainer.max_epochs=1", "eval.test=false"]


class Probe(L.Callback):
    """Calls something before the first step."""

    def __init__(self, before_training):
        self.before_training = before_training

    def on_train_start(self, trainer, pl_module):
        self.before_training(trainer, pl_module)
        trainer.should_stop = True


@pytest.fixture
def at_start(compose, tmp_path):
    """Call something at the start of a run that these words describe."""

    def at_start(before_training, *words):
        config = check.plain(compose(*WORDS, *words))
        finder = assemble.build(config["callbacks"]["lr_range"], "callbacks")
        L.seed_everything(config["seed"], verbose=False)
        data = assemble.data(config)
        classifier = assemble.task(config, data)
        trainer = assemble.trainer({**config, "callbacks": {}}, str(tmp_path), data, classifier)
        trainer.callbacks.append(Probe(lambda *both: before_training(finder, *both)))
        trainer.fit(classifier, data)

    return at_start


def everything(trainer, classifier):
    """All that a range test could change."""
    [optimizer] = trainer.optimizers
    return {
        "state": classifier.state_dict(),
        "gradients": [p.grad for p in classifier.parameters()],
        "modes": [module.training for module in classifier.modules()],
        "optimizer": optimizer.state_dict(),
        "groups": [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups],
        "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "scaler": getattr(trainer.precision_plugin, "scaler", None),
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(),
        "python": random.getstate(),
        "metrics": dict(trainer.callback_metrics),
        "sums": {stage: list(sums) for stage, sums in classifier.epoch_sums.stages.items()},
        "batch": next(iter(trainer.train_dataloader)),
        "place": (trainer.global_step, trainer.current_epoch, classifier.last_counted_batch),
    }


def copied(value):
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [copied(item) for item in value]
    return (
        value.clone() if isinstance(value, torch.Tensor) else value.copy() if isinstance(value, np.ndarray) else value
    )


def assert_same(a, b, path=""):
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, np.ndarray):
        assert np.array_equal(a, b), path
    else:
        assert a == b, path


@pytest.mark.parametrize(
    "words",
    [
        ["model=cnn", "optim=adam", "data.augment.crop=1", "scheduler=one_cycle"],
        ["model=mlp", "model.dropout=0.5", "optim=muon", "scheduler=cosine", "scheduler.warmup=0.2"],
        ["model=mlp", "optim=nesterov", "optim.weight_decay=0.1", "scheduler=plateau", "scheduler.momentum=rise"],
        ["model=mlp", "optim=sgd", "trainer.precision=bf16-mixed", "trainer.accumulate_grad_batches=2"],
    ],
    ids=lambda words: " ".join(words[:3]),
)
def test_everything_is_to_the_bit_what_it_was_and_no_validation_image_is_read(words, at_start, monkeypatch):
    def refuse(self):
        raise AssertionError("validation images are read")

    def look(finder, trainer, classifier):
        with monkeypatch.context() as patch:
            patch.setattr(ArrayData, "val_dataloader", refuse)
            before = copied(everything(trainer, classifier))
            test = finder.find(trainer, classifier)
            assert_same(before, copied(everything(trainer, classifier)))
        losses = [sweep.losses for sweep in test.sweeps]
        assert losses[0] != losses[1]  # it did train, from other weights
        assert max(losses[0]) > min(losses[0]) + 0.1
        tests.append(test)

    tests = []
    at_start(look, *words)
    assert len(tests) == 1


def test_every_group_keeps_its_ratio_and_a_step_takes_as_many_batches_as_the_run(at_start, monkeypatch):
    rates, batches = [], []
    step, endless = range_test.SweepStep.__call__, range_test.endless_batches

    def watched_step(self, source, lr):
        loss = step(self, source, lr)
        rates.append([group["lr"] for group in self.optimizer.param_groups])
        return loss

    def watched_batches(loader):
        for batch in endless(loader):
            batches.append(len(batch[1]))
            yield batch

    monkeypatch.setattr(range_test.SweepStep, "__call__", watched_step)
    monkeypatch.setattr(range_test, "endless_batches", watched_batches)
    words = ["optim=muon", "optim.lr=0.02", "optim.adam_lr=0.004", "trainer.accumulate_grad_batches=3"]
    tests = []
    at_start(lambda finder, *both: tests.append(finder.find(*both)), "model=mlp", *words)
    steps = sum(len(sweep.losses) for sweep in tests[0].sweeps)
    assert len(rates) >= steps and len(batches) == 3 * len(rates) and set(batches) == {32}
    assert [rate[0] for rate in rates[:20]] == pytest.approx(ladder(1e-6, 10, 20)[: len(rates[:20])])
    assert all(max(rate) / min(rate) == pytest.approx(5) for rate in rates)


@pytest.mark.parametrize("words", [["model=mlp"], ["model=speednet", "model.widths=[8,8]"]], ids=lambda words: words[0])
def test_a_sweep_after_the_first_starts_from_the_weights_of_another_seed(words, at_start, monkeypatch):
    starts, answers = [], []
    sweep = range_test.run_sweep

    def watched(step, *rest):
        starts.append({name: value.clone() for name, value in step.task.network.state_dict().items()})
        return sweep(step, *rest)

    monkeypatch.setattr(range_test, "run_sweep", watched)

    def look(finder, trainer, classifier):
        own = copied(classifier.network.state_dict())
        answers.append(finder.find(trainer, classifier))
        assert_same(starts[0], own)
        assert not torch.equal(starts[1]["head.weight"], own["head.weight"])
        first = next(iter(own))  # of speednet the first layer whitens the data, whatever the seed is
        assert starts[1][first].std().item() == pytest.approx(own[first].std().item(), rel=0.1)
        classifier.fresh_network = None  # as with weights=<run>
        finder.find(trainer, classifier)
        assert_same(starts[2], own)
        assert_same(starts[3], own)

    at_start(look, *words, "data.batch_size=full")  # all orders of a single batch are the same
    losses = [sweep.losses for sweep in answers[0].sweeps]
    assert abs(losses[0][0] - losses[1][0]) > 1e-3


def test_two_sweeps_of_one_run_and_one_seed_find_the_same_again(at_start):
    tests = []
    for _ in range(2):
        at_start(lambda finder, *both: tests.append(finder.find(*both)), "model=mlp", "model.dropout=0.3")
    assert [sweep.losses for sweep in tests[0].sweeps] == [sweep.losses for sweep in tests[1].sweeps]


def test_a_sweep_ends_where_the_loss_is_not_finite_or_diverges(at_start):
    def look(finder, trainer, classifier):
        lrs = ladder(1e-3, 1e12, 40)
        test = range_test.range_test(trainer, classifier, lrs, 2, 0.5)
        for sweep in test.sweeps:
            assert sweep.diverged and len(sweep.lrs) == len(sweep.losses) < 40
            assert all(map(math.isfinite, sweep.losses))
            assert sweep.lrs[sweep.lowest] < 1e3
        classifier.network.head.weight.data[0] = math.nan
        with pytest.raises(FloatingPointError, match="not finite before any step is made"):
            range_test.range_test(trainer, classifier, lrs, 2, 0.5)

    at_start(look, "model=mlp", "model.norm=none", "optim=sgd")
