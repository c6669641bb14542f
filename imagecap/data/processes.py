"""Several processes on one machine: how many a command may start, and a `map` over them."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from imagecap.data.decoding import default_threads

Job = TypeVar("Job")
Result = TypeVar("Result")

_IDLE_SECONDS = 5  # after which a process without work ends


def num_processes() -> int:
    """Processes that decode pictures: one per core, shared among the processes of a distributed training.

    Pictures may be so small that threads would wait for the interpreter's lock.
    """
    return max(1, default_threads() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def own_order(jobs: Sequence[Job]) -> list[Job]:
    """Return jobs in the order in which this process of a distributed training does them.

    All processes on a machine have the same jobs, and each begins at another one. Before a job, a process looks up
    whether another one has done it.
    """
    first = len(jobs) * int(os.environ.get("LOCAL_RANK", 0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return [*jobs[first:], *jobs[:first]]


def map_in_processes(work: Callable[[Job], Result], jobs: Iterable[Job], processes: int) -> Iterator[Result]:
    """Yield `work(job)` for each job, in order.

    Args:
        work: is called in another process, so it and what it returns must be picklable.
        jobs: jobs, picklable too.
        processes: how many run at once.

    Raises:
        Exception: what `work` raised.
    """
    from joblib import Parallel, delayed
    from joblib.externals.loky import get_reusable_executor

    # joblib keeps its processes for minutes. They take memory, and if this process is killed they hold its standard
    # error open, so that whoever reads that waits for them.
    pool = Parallel(n_jobs=processes, return_as="generator", idle_worker_timeout=_IDLE_SECONDS)
    try:
        yield from pool(delayed(work)(job) for job in jobs)
    finally:
        get_reusable_executor().shutdown(wait=True)
