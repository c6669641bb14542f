"""Peak rates of this machine, measured: floating-point operations and memory reads, to compare results with."""

import time
from collections.abc import Callable

import torch

CPU = torch.device("cpu")


def wait_for(device: torch.device) -> None:
    """Wait until the device has finished all queued work; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def best_seconds(run: Callable[[], object], rounds: int = 5, device: torch.device = CPU) -> float:
    """The shortest wall time of `run` in some rounds, after one warm-up, in seconds."""
    run()
    times = []
    for _ in range(rounds):
        wait_for(device)
        started = time.perf_counter()
        run()
        wait_for(device)
        times.append(time.perf_counter() - started)
    return min(times)


def matmul_peak(dtype: torch.dtype, device: torch.device = CPU) -> float:
    """Floating-point operations per second of a square matrix product that is large enough to saturate the device."""
    side = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / best_seconds(lambda: left @ right, device=device)


def read_bandwidth(dtype: torch.dtype, device: torch.device = CPU) -> float:
    """Bytes read per second by a matrix-vector product larger than any cache; on a GPU by a sum, if that is faster."""
    megabytes = 4096 if device.type == "cuda" else 512
    columns = 4096
    size = torch.empty((), dtype=dtype).element_size()
    matrix = torch.randn(megabytes * 2**20 // size // columns, columns, device=device).to(dtype)
    vector = torch.randn(columns, device=device).to(dtype)
    seconds = best_seconds(lambda: torch.mv(matrix, vector), device=device)
    if device.type == "cuda":
        seconds = min(seconds, best_seconds(matrix.sum, device=device))
    return matrix.nbytes / seconds


def describe(device: torch.device = CPU) -> str:
    """Device and version of torch, for the heading of a table."""
    version = torch.__version__.partition("+")[0]
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {version}, CUDA {torch.version.cuda}"
    return f"{torch.get_num_threads()} threads, torch {version}, CPU"
