"""Ending processes together with the process that started them."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from imagecap.signals import ALWAYS_HEEDED, END_SIGNALS, handle_end_signals, interrupt_once, restore_handlers

_PR_SET_PDEATHSIG = 1

# Program of a new process, which sets the signal and then becomes the command; the setting survives exec.
# A `preexec_fn` would be unsafe, as Prefect's process has threads.
LAUNCHER = f"""\
import ctypes, os, signal, sys
parent = int(sys.argv[1])
if sys.platform == "linux":
    ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, signal.SIGTERM)
if os.getppid() != parent:
    sys.exit("the process that asked for this is gone")
os.execvp(sys.argv[2], sys.argv[2:])
"""


def die_with_parent() -> None:
    """Ask the system to send this process SIGTERM when its parent ends in any way (Linux only).

    DVC does not pass signals on to its stages, and a process that gets SIGKILL cannot.

    Raises:
        KeyboardInterrupt: the parent has ended already.
    """
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            raise KeyboardInterrupt


def interrupt_on_end_signals() -> None:
    """Turn SIGTERM, SIGHUP and the like into a KeyboardInterrupt, so that state is saved as after Ctrl-C."""
    handle_end_signals(interrupt_once())


@contextmanager
def end_like_sigterm() -> Iterator[None]:
    """Let the other signals that ask to end do what SIGTERM does, which Prefect handles in its flows.

    Ctrl-C is left alone: it is a KeyboardInterrupt, which Prefect handles too.
    """

    def pass_on(_number: int, _frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGTERM)

    before = handle_end_signals(pass_on, [number for number in END_SIGNALS if number not in ALWAYS_HEEDED])
    try:
        yield
    finally:
        restore_handlers(before)
