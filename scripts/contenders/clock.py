"""A clock for code whose parts run inside one another, such as imports or the functions of a training step."""

import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator


class Clock:
    """Splits time into spans, each without those that run inside it, so that the spans add up to the whole.

    `wait` is called before the time is read: on a GPU, torch.cuda.synchronize.
    """

    def __init__(self, outermost: str, wait: Callable[[], None] = lambda: None) -> None:
        self.seconds: Counter[str] = Counter()
        self.stack = [outermost]  # the spans that are running, the innermost last
        self.wait = wait
        self.mark = time.perf_counter()

    def enter(self, span: str) -> None:
        self.tick()
        self.stack.append(span)

    def leave(self) -> None:
        self.tick()
        self.stack.pop()

    def tick(self) -> None:
        """Add the time since the last tick to the span that was running."""
        self.wait()
        now = time.perf_counter()
        self.seconds[self.stack[-1]] += now - self.mark
        self.mark = now

    def snapshot(self) -> Counter[str]:
        """Seconds of each span so far."""
        self.tick()
        return self.seconds.copy()

    def timed(self, span: str, function: Callable) -> Callable:
        """The same function, whose time is a span."""

        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            self.enter(span)
            try:
                return function(*args, **kwargs)
            finally:
                self.leave()

        return wrapper

    def timed_items(self, span: str, function: Callable[..., Iterator]) -> Callable[..., Iterator]:
        """The same generator function; the span is the time in which it makes its items."""

        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            items = function(*args, **kwargs)
            step = self.timed(span, lambda: next(items, None))
            while (item := step()) is not None:
                yield item

        return wrapper
