"""Signals during training: the current step is finished and the state saved before the process exits."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from imagecap.signals import Interrupted, handle_end_signals, restore_handlers


class DeferredSignals:
    """True as soon as a signal has come. A second Ctrl-C raises KeyboardInterrupt at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._interrupts = False

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def exit_status(self) -> int:
        """128 plus the signal number: 130 for Ctrl-C, 143 for SIGTERM (also if only another process got the signal)."""
        return 128 + (self.signal or signal.SIGTERM)

    def handle(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is None:
            self.signal = number
            if self._interrupts:
                raise Interrupted(number)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Context of work that can be done again: a signal raises `Interrupted` in it, at once if one has come before.

        Raises:
            Interrupted: a signal has come.
        """
        self._interrupts = True
        try:
            if self.signal is not None:
                raise Interrupted(self.signal)
            yield
        finally:
            self._interrupts = False


@contextmanager
def deferred_signals() -> Iterator[DeferredSignals]:
    """Defer the signals that ask to end for the length of the block; in threads other than the main one, none."""
    signals = DeferredSignals()
    before = handle_end_signals(signals.handle)
    try:
        yield signals
    finally:
        restore_handlers(before)
