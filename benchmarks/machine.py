"""Peak rates of this machine, measured: floating-point operations and memory reads, to compare results with."""

import time
from collections.abc import Callable

import torch

CPU = torch.device("cpu")
# Floating-point operations per second of dense matrix products in bfloat16 that the makers' data sheets promise, by a
# part of the name that torch gives; the first one that fits counts.
DATASHEET_PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "L40S": 362e12,
    "A100": 312e12,
    "RTX 4090": 165e12,
    "A10G": 70e12,
    "L4": 121e12,
    "A10": 125e12,
}


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
    """Floating-point operations per second of a square matrix product that is large enough to saturate the device.

    In float32 on a CPU it is that of the faster library: MKL, which torch calls, or oneDNN.
    """
    side = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds = best_seconds(lambda: left @ right, device=device)
    if device.type == "cpu" and dtype == torch.float32 and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        onednn = torch.ops.mkldnn._linear_pointwise.default
        seconds = min(seconds, best_seconds(lambda: onednn(left, right, None, "none", [], "")))
    return 2 * side**3 / seconds


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


def datasheet_peak(name: str) -> float | None:
    """Operations per second in bfloat16 of a GPU by its name; None: it is not in the table."""
    return next((peak for part, peak in DATASHEET_PEAKS.items() if part in name), None)


def utilization(operations: float, per_second: float, peak: float) -> float:
    """Model FLOPs utilization (MFU; Chowdhery et al. 2022, arXiv:2204.02311).

    Args:
        operations: floating-point operations of one unit of work, such as a caption.
        per_second: units of work per second.
        peak: operations per second that the device could make.
    """
    return operations * per_second / peak


def describe(device: torch.device = CPU) -> str:
    """Device and version of torch, for the heading of a table."""
    version = torch.__version__.partition("+")[0]
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {version}, CUDA {torch.version.cuda}"
    return f"{torch.get_num_threads()} threads, torch {version}, CPU"
