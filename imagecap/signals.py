"""The signals that ask a process to end: Ctrl-C, a closed terminal, `kill`, a scheduler.

All of them are heeded in the same way. SIGHUP and others that `nohup` or a shell has set to be ignored stay ignored.
"""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

# SIGUSR1 and SIGXCPU are what batch systems send before the time of a job is over.
END_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGXCPU")
    if hasattr(signal, name)  # Windows has the first two
)
ALWAYS_HEEDED = (signal.SIGINT, signal.SIGTERM)  # SIGINT also where a shell started the process with `&`


class Interrupted(KeyboardInterrupt):
    """A signal asked the process to end.

    Attributes:
        signal: number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


def exit_status(interrupt: BaseException) -> int:
    """The exit status of a process that a signal ended, as shells report it: 128 plus the signal's number."""
    return 128 + (interrupt.signal if isinstance(interrupt, Interrupted) else signal.SIGINT)


def handle_end_signals(
    handler: Callable[[int, FrameType | None], Any], signals: Sequence[int] = END_SIGNALS
) -> dict[int, Any]:
    """Install a handler for the signals that ask to end, and return those before.

    In threads other than the main one nothing is installed, as Python does not allow it there.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    ignored = {number for number in signals if signal.getsignal(number) is signal.SIG_IGN}
    heeded = [number for number in signals if number in ALWAYS_HEEDED or number not in ignored]
    return {number: signal.signal(number, handler) for number in heeded}


def restore_handlers(before: dict[int, Any]) -> None:
    """Install the handlers again that `handle_end_signals` returned."""
    for number, handler in before.items():
        signal.signal(number, handler)


@contextmanager
def interrupting_signals() -> Iterator[None]:
    """Raise `Interrupted` in the main thread when a signal asks to end, for the length of the block."""
    before = handle_end_signals(interrupt_once())
    try:
        yield
    finally:
        restore_handlers(before)


def interrupt_once() -> Callable[[int, FrameType | None], None]:
    """Return a handler that raises `Interrupted` at the first signal, and afterwards only at Ctrl-C.

    A closed terminal sends SIGHUP, and the end of the parent SIGTERM right after it: the second one must not interrupt
    what the first one lets a process still write.
    """
    received: list[int] = []

    def interrupt(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        if len(received) == 1 or number == signal.SIGINT:
            raise Interrupted(number)

    return interrupt
