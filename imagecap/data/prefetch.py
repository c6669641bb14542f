"""Reading ahead: the results of slow jobs, in order, made by threads before they are asked for."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def prefetch(work: Callable[[Job], Result], jobs: Iterable[Job], *, threads: int, ahead: int) -> Iterator[Result]:
    """`map(work, jobs)`, with up to `ahead` further results made or being made by threads.

    Threads suffice for work that releases the interpreter's lock, as Pillow, hashlib and PyTorch do. `jobs` may be an
    endless iterator: it is only read as far as work is handed out. When the caller stops early (closes the iterator,
    or is interrupted), jobs that wait are cancelled and those that run are waited for.

    Args:
        work: called in a thread with one job.
        jobs: iterated over in the caller's thread.
        threads: how many jobs run at once.
        ahead: how many results may be held before they are asked for; it bounds the memory.

    Raises:
        Exception: what `work` raised for a job, when the turn of its result comes. No later result is given.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="prefetch")
    waiting: deque[Future[Result]] = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(work, job))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
