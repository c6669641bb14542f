"""What this machine can do: its matrix products and its memory, measured, to say how far from them something is."""

import time
from collections.abc import Callable

import torch


def best_seconds(run: Callable[[], object], rounds: int = 5) -> float:
    """The fastest of some rounds, after one to warm up."""
    run()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def matmul_peak(dtype: torch.dtype, side: int = 2048) -> float:
    """Floating-point operations per second of a large square matrix product."""
    left, right = torch.randn(side, side).to(dtype), torch.randn(side, side).to(dtype)
    return 2 * side**3 / best_seconds(lambda: left @ right)


def read_bandwidth(dtype: torch.dtype, megabytes: int = 512) -> float:
    """Bytes per second of a matrix-vector product that is too large for any cache."""
    columns = 4096
    size = torch.empty((), dtype=dtype).element_size()
    matrix = torch.randn(megabytes * 2**20 // size // columns, columns).to(dtype)
    vector = torch.randn(columns).to(dtype)
    return matrix.nbytes / best_seconds(lambda: torch.mv(matrix, vector))


def describe() -> str:
    """Threads and library, for the heading of a table."""
    return f"{torch.get_num_threads()} threads, torch {torch.__version__.partition('+')[0]}, CPU"
