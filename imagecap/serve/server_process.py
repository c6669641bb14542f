"""What a process of `mlflow models serve` is given: threads, memory that is returned, an end if nothing is decoded."""

import asyncio
import ctypes
import os
import sys
import threading
import time
from contextlib import suppress
from types import FrameType

from imagecap.serve.request_threads import RequestThreads

_WAIT, _MOST_WAIT = 0.02, 60.0  # seconds between looks for the event loop, and until there will be none
_RUNNERS = ("asyncio", "uvicorn")  # packages that run the event loop

# Parameters of glibc's `mallopt`, from malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_MAPPED_BYTES = 8 << 20  # blocks from this size on are returned when they are freed; Pillow's have 16 MiB
_ARENAS = 4
_TRIM_SECONDS = 10.0


def set_request_threads() -> None:
    """Let the event loop of the server handle requests in `RequestThreads`.

    Call it when the model is loaded. With one worker, uvicorn loads it before its event loop runs, so that a thread
    waits for the loop. Until it has found it, requests have the default threads: a request that waits for one of these
    does so without a deadline.
    """
    try:
        asyncio.get_running_loop().set_default_executor(RequestThreads())
    except RuntimeError:  # no event loop runs yet
        threading.Thread(target=_set_when_running, name="imagecap-thread-pool", daemon=True).start()


def _set_when_running() -> None:
    started = time.monotonic()
    while time.monotonic() < started + _MOST_WAIT:
        time.sleep(_WAIT)
        loop = _loop_of_main_thread()
        if loop is not None:
            loop.call_soon_threadsafe(loop.set_default_executor, RequestThreads())
            return


def _loop_of_main_thread() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in the main thread, which asyncio tells no other thread; None if there is none.

    It is a variable of a function of asyncio or uvicorn that runs there. Other functions are not looked at: to read the
    variables of one that is just executing can end the process. (`gc.get_objects` would find the loop too, but objects
    that another thread is just making must not be referred to.)
    """
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    frames: list[FrameType] = []
    while frame is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] in _RUNNERS:
            frames.append(frame)
        frame = frame.f_back
    for each in reversed(frames):  # the outermost first: asyncio's `run` is near it
        for value in list(each.f_locals.values()):
            # `isinstance` would wake proxies, `type` does not
            if issubclass(type(value), asyncio.AbstractEventLoop) and value.is_running():
                found: asyncio.AbstractEventLoop = value
                return found
    return None


def return_freed_memory() -> None:
    """Let the process return the memory of large pictures and request bodies to the system when it is freed.

    By default glibc gives each thread an arena, and keeps freed blocks of up to 32 MiB in it. Thirty threads that have
    read a large picture each would keep gigabytes. Other C libraries have no such parameters.

    pandas keeps the strings of a request in memory of Arrow, whose own allocator (mimalloc) keeps for each thread huge
    pages of 2 MB that are never returned. So Arrow is told to use the allocator of the C library.
    """
    import pyarrow

    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _MAPPED_BYTES)
        mallopt(_TRIM_THRESHOLD, 2 * _MAPPED_BYTES)
        mallopt(_ARENA_MAX, _ARENAS)


def trim_heap() -> None:
    """Return freed blocks inside the heap as well, such as the parts in which request bodies arrived.

    It takes about a millisecond.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def trim_heap_regularly(seconds: float = _TRIM_SECONDS) -> None:
    """Call `trim_heap` every few seconds, in a thread that does not keep the process alive.

    Small blocks that last, between large ones that were freed, keep the heap at the size of its busiest moment, which
    in a server of days is far above what is in use.
    """

    def trim() -> None:
        while True:
            time.sleep(seconds)
            trim_heap()

    threading.Thread(target=trim, name="imagecap-trim", daemon=True).start()


def end_process(error: BaseException) -> None:
    """End the process, because its decoding thread has ended: a server that only answers `/ping` is worse than none."""
    print(
        f"error: the server ends, because its decoding thread ended: {type(error).__name__}: {error}",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)
