"""Signals that ask a run to end: it saves at the end of the step and then ends."""

import contextlib
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from athanor.training import slurm

log = logging.getLogger(__name__)

# Ctrl-C, kill, and what cluster schedulers send before they preempt a job; Windows lacks the last two
END_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]


class Signals:
    """Handles the signals that ask a run to end. The only object is `signals`, as handlers belong to the process.

    asked: the signal that waits for the end of the step. saves_at_step: whether the run looks at `asked` there; if
    not, or at a second signal, the process ends at once. A handler that was installed before (submitit's, which
    requeues the job) is called in place of the exit.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self.saves_at_step = False
        self.before: dict[int, object] = {}  # the handlers that were installed before

    @contextmanager
    def handled(self) -> Iterator[None]:
        self.asked, self.saves_at_step = None, False
        self.before = {number: signal.getsignal(number) for number in END_SIGNALS}
        self.take()
        try:
            yield
        finally:
            for number, handler in self.before.items():
                install(number, handler)

    def take(self) -> None:
        """Install the handlers; also after Lightning has installed its own, which stop one process of several."""
        for number in END_SIGNALS:
            install(number, self.received)

    def received(self, number: int, frame: FrameType | None) -> None:
        if not self.saves_at_step or self.asked is not None:
            self.leave(number)
            return
        self.asked = number
        name = signal.Signals(number).name
        log.info("%s: saving at the end of this step; send it again to end without", name)

    def leave(self, number: int) -> None:
        """End the process as this signal asks. Returns if a handler from before decides that it goes on."""
        handler = self.before.get(number)
        self.asked = None
        if callable(handler) and handler is not signal.default_int_handler:
            handler(number, None)  # submitit's requeues and exits, or ignores the signal
            return
        if number == getattr(signal, "SIGUSR1", None):  # sbatch --signal=USR1@120 sends it before the time limit
            slurm.requeue()
        raise SystemExit(128 + number)


def install(number: int, handler: object) -> None:
    """signal.signal; does nothing outside the main thread, and for a handler that was not installed by Python."""
    with contextlib.suppress(ValueError, TypeError):
        signal.signal(number, handler)


signals = Signals()
