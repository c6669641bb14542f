"""What a process of `mlflow models serve` is given: threads for requests, and an end if nothing can be decoded."""

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

# MLflow calls the model in the default threads of the event loop, which are the number of cores + 4. A few requests
# with many large pictures would take all of them, and others would wait unseen.
_REQUEST_THREADS = 32


def widen_thread_pool() -> None:
    """Give the event loop of the server more threads. It runs already when uvicorn loads the model."""
    with suppress(RuntimeError):  # no event loop runs
        pool = ThreadPoolExecutor(_REQUEST_THREADS, thread_name_prefix="imagecap-request")
        asyncio.get_running_loop().set_default_executor(pool)


def end_process(error: BaseException) -> None:
    """End the process, because its decoding thread has ended: a server that only answers `/ping` is worse than none."""
    print(
        f"error: the server ends, because its decoding thread ended: {type(error).__name__}: {error}",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)
