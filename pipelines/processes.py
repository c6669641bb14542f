"""Ending processes together with the process that started them."""

import ctypes
import os
import signal
import sys
from types import FrameType

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


def interrupt_on_sigterm() -> None:
    """Turn SIGTERM into a KeyboardInterrupt, so that state is saved as after Ctrl-C."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
