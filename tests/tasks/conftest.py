"""What the tests of tasks share: a training that is interrupted at a batch, and two runs that must be equal."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch

from athanor.callbacks.stopwatch import Stopwatch
from athanor.engine.runs.run import Run, read_checkpoint


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], AbstractContextManager]:
    """Within `interrupted(7)` a training ends at its batch 7, counted from 0 over all epochs, as by Ctrl-C."""

    @contextmanager
    def interrupted(batch: int) -> Iterator[None]:
        def interrupt(self, trainer, *arguments) -> None:
            if trainer.fit_loop.epoch_loop.total_batch_idx == batch:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Stopwatch, "on_train_batch_start", interrupt)
            yield

    return interrupted


@pytest.fixture
def assert_resumed(interrupted, assert_same, train) -> Callable[..., None]:
    """Asserts that a training of two epochs of 5 batches is resumed to the bit from five places.

    run: trains with further words. The run that is not interrupted stays as `whole`, and the others as parts_<batch>.
    """

    def assert_resumed(run: Callable[..., object], *words: str) -> None:
        words = [*words, "callbacks.checkpoints.every_minutes=1e-9", "trainer.log_every_n_steps=2"]
        ran = run(*words, "hydra.run.dir=whole")
        assert ran.code == 0, ran.err
        for batch in 1, 3, 5, 7, 9:
            with interrupted(batch):
                assert run(*words, f"hydra.run.dir=parts_{batch}").code != 0
            ran = train(f"resume=parts_{batch}")
            assert ran.code == 0, ran.err
            assert_same("whole", f"parts_{batch}")

    return assert_resumed


@pytest.fixture
def assert_same() -> Callable[[str, str], None]:
    """Asserts that two runs have the same weights and values in train, val and test, to the bit."""

    def assert_same(first: str, second: str) -> None:
        a, b = Run(first), Run(second)
        for stage in "train", "val", "test":
            assert a.results.get(stage) == b.results.get(stage)
        states = [read_checkpoint(run.dir / "checkpoints" / "last.ckpt")["state_dict"] for run in (a, b)]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
        logged = [(run.dir / "metrics.csv").read_text().splitlines() for run in (a, b)]
        assert sorted(logged[0]) == sorted(logged[1])

    return assert_same
