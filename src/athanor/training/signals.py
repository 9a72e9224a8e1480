"""Signals that ask a run to end, or to make room for others: it saves at the end of the step and ends."""

import contextlib
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from athanor.training import slurm

log = logging.getLogger(__name__)

NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")  # Ctrl-C, kill, and what schedulers send before they preempt
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


class Signals:
    """`asked` is the signal that waits for the end of the step. Where nobody would save, or at a second one, the
    process ends at once. What handled a signal before (submitit's requeueing) is called in place of an exit.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self.somebody_saves = False
        self.before: dict[int, object] = {}

    @contextmanager
    def handled(self) -> Iterator[None]:
        self.asked, self.somebody_saves = None, False
        self.before = {number: signal.getsignal(number) for number in SIGNALS}
        self.take()
        try:
            yield
        finally:
            for number, handler in self.before.items():
                install(number, handler)

    def take(self) -> None:
        """Handle them here; once more where Lightning has put its own, which stops one rank and not the others."""
        for number in SIGNALS:
            install(number, self.received)

    def received(self, number: int, frame: FrameType | None) -> None:
        if not self.somebody_saves or self.asked is not None:
            self.leave(number)
            return
        self.asked = number
        name = signal.Signals(number).name
        log.info("%s: saving at the end of this step; send it again to end without", name)

    def leave(self, number: int) -> None:
        handler = self.before.get(number)
        self.asked = None
        if callable(handler) and handler is not signal.default_int_handler:
            handler(number, None)  # submitit: requeues and exits, or ignores it
            return
        if number == getattr(signal, "SIGUSR1", None):  # which sbatch --signal=USR1@120 sends before the time is over
            slurm.requeue()
        raise SystemExit(128 + number)


def install(number: int, handler: object) -> None:
    with contextlib.suppress(ValueError, TypeError):  # in a thread, or a handler that Python does not know
        signal.signal(number, handler)


signals = Signals()
