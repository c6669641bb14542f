"""The threads in which MLflow's server parses requests and calls the model, few of them for large bodies.

While MLflow handles a body, it holds it several times: as bytes, as the strings of its JSON, and as a column of pandas.
So few large bodies may be handled at once; the others wait as bytes.
"""

import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

# Requests with many large pictures would take all of the default threads, which are the number of cores + 4.
_THREADS, _LARGE_BODY_THREADS = 32, 2
_LARGE_BODY = 4_000_000  # bytes

_running = threading.local()


class RequestThreads(ThreadPoolExecutor):
    """An executor for the event loop of the server. Large bodies have `large_threads` threads of their own.

    Args:
        threads: number of threads for the other bodies.
        large_threads: number of threads for bodies of more than 4 MB.
    """

    def __init__(self, threads: int = _THREADS, large_threads: int = _LARGE_BODY_THREADS) -> None:
        super().__init__(threads, thread_name_prefix="imagecap-request")
        self._large = ThreadPoolExecutor(large_threads, thread_name_prefix="imagecap-large-request")

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Schedule a call, as `ThreadPoolExecutor.submit` does."""
        call = functools.partial(_run, time.monotonic(), function)
        if _body_bytes(function) > _LARGE_BODY:
            return self._large.submit(call, *args, **kwargs)
        return super().submit(call, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no further calls, as `ThreadPoolExecutor.shutdown` does."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        self._large.shutdown(wait, cancel_futures=cancel_futures)


def arrived_at() -> float:
    """Time of `time.monotonic` at which the call that this thread runs was scheduled; now, if it runs none."""
    return float(getattr(_running, "arrived", time.monotonic()))


def _run(arrived: float, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    _running.arrived = arrived
    try:
        return function(*args, **kwargs)
    finally:
        del _running.arrived


def _body_bytes(function: Callable[..., Any]) -> int:
    """Length of the longest bytes that `asyncio.to_thread` has bound to a function."""
    bound = function.args if isinstance(function, functools.partial) else ()
    return max((len(each) for each in bound if isinstance(each, bytes)), default=0)
