"""The version that a server captions with, which can be replaced between two requests."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from imagecap.serve.scheduler import Scheduler


class _Version:
    """A scheduler and the number of requests that use it; `closed` is set when it is closed."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.requests = 0
        self.closed = threading.Event()

    def close(self) -> None:
        self.scheduler.close()
        self.closed.set()


class CurrentVersion:
    """Gives each request the scheduler of one version for its whole time. Any thread may call its methods.

    Args:
        scheduler: the scheduler of the first version.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._lock = threading.Lock()
        self._current = _Version(scheduler)

    @contextmanager
    def in_request(self) -> Iterator[Scheduler]:
        """Give the scheduler of the version that is current now; it stays open until the block ends."""
        with self._lock:
            version = self._current
            version.requests += 1
        try:
            yield version.scheduler
        finally:
            with self._lock:
                version.requests -= 1
                unused = version is not self._current and version.requests == 0
            if unused:
                version.close()

    def replace(self, scheduler: Scheduler) -> threading.Event:
        """Give new requests another scheduler. The old one is closed when its last request has ended.

        Returns:
            An event that is set when the old scheduler is closed.
        """
        with self._lock:
            old, self._current = self._current, _Version(scheduler)
            unused = old.requests == 0
        if unused:
            old.close()
        return old.closed
