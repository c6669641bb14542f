"""Ctrl-C and SIGTERM during training: finish the step, save, leave with the status that says so."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Whether to stop, asked between steps. A second Ctrl-C stops at once, without saving."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def status(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM, as a shell has it; the latter too where another process was told."""
        return 128 + (self.signal or signal.SIGTERM)

    def handle(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Take both signals for the length of the block; only the main thread of a process can."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
