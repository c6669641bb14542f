"""What this machine can do: its matrix products and its memory, measured, to say how far from them something is."""

import time
from collections.abc import Callable

import torch

CPU = torch.device("cpu")


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all it was given: a GPU computes while Python goes on."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def best_seconds(run: Callable[[], object], rounds: int = 5, device: torch.device = CPU) -> float:
    """The fastest of some rounds, after one to warm up."""
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
    """Floating-point operations per second of a square matrix product large enough to keep the device busy."""
    side = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / best_seconds(lambda: left @ right, device=device)


def read_bandwidth(dtype: torch.dtype, device: torch.device = CPU) -> float:
    """Bytes per second of a matrix-vector product too large for any cache; on a GPU of a sum, if that is faster."""
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
    """Device and library, for the heading of a table."""
    version = torch.__version__.partition("+")[0]
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {version}, CUDA {torch.version.cuda}"
    return f"{torch.get_num_threads()} threads, torch {version}, CPU"
