"""Ctrl-C and SIGTERM during training: the current step is finished and the state saved before the process exits."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class DeferredSignals:
    """True as soon as a signal has come. A second Ctrl-C raises KeyboardInterrupt at once."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def exit_status(self) -> int:
        """128 plus the signal number: 130 for Ctrl-C, 143 for SIGTERM (also if only another process got the signal)."""
        return 128 + (self.signal or signal.SIGTERM)

    def handle(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number


@contextmanager
def deferred_signals() -> Iterator[DeferredSignals]:
    """Defer SIGINT and SIGTERM for the length of the block; in threads other than the main one nothing is deferred."""
    signals = DeferredSignals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = {number: signal.signal(number, signals.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
