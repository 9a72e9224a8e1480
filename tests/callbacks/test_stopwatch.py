"""images_per_second counts images and seconds of the same steps."""

import time

import pytest

from athanor.callbacks.stopwatch import Stopwatch


class Step:
    world_size = 2


def test_an_epoch_that_max_steps_cuts_short_counts_with_its_time_and_validation_does_not(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    watch = Stopwatch()
    watch.on_fit_start(Step, None)
    watch.on_train_start(Step, None)
    for steps in 3, 1:  # the second epoch ends early
        watch.on_train_epoch_start(Step, None)
        for index in range(steps):
            clock[0] += 0.5
            watch.on_train_batch_end(Step, None, None, ("images", range(10)), index)
        clock[0] += 100  # validation
        watch.on_validation_end(Step, None)
    watch.on_fit_end(Step, None)
    assert watch.images_per_second == pytest.approx(2 * 10 / 0.5)
    assert watch.fit_seconds == pytest.approx(202)
