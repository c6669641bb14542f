"""No process outlives the one that asked for its work."""

import ctypes
import os
import signal
import sys
from types import FrameType

_PR_SET_PDEATHSIG = 1

# Run by a new process before it becomes the command: after exec the setting stays. (A `preexec_fn` would do it too,
# but is unsafe in a process with threads, which Prefect's is.)
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
    """Ask the system to send this process SIGTERM when its parent dies, by whatever death (Linux; else nothing).

    DVC passes no signal on to its stages, and a parent that is killed outright could not.
    """
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            raise KeyboardInterrupt


def interrupt_on_sigterm() -> None:
    """Make SIGTERM the same as Ctrl-C, so that there is one way to be interrupted, and state is saved in both."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
