"""The device that a model runs on and the dtype of its matrix products."""

import functools
import os
import sys

import torch

from imagecap.config import ComputeSettings
from imagecap.errors import ImageCapError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Instructions for matrix products, as torch names them: x86 processors that have one of them, and ARM ones. AVX-512
# alone is not enough: without these, products of 16 bits take several times as long as those of 32.
_FAST = {
    torch.bfloat16: ("amx_bf16", "avx512_bf16", "bf16"),
    torch.float16: ("amx_fp16", "avx512_fp16", "fp16_arith"),
}


def resolve_device(settings: ComputeSettings) -> torch.device:
    """Return the device that is asked for; "auto" takes CUDA, then Apple's MPS, then the CPU.

    Among several processes of `torchrun` each takes a GPU of its own, which becomes torch's current one.

    Raises:
        ImageCapError: this machine, or this build of torch, does not have it.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    chosen: str = settings.device
    if chosen == "auto":
        chosen = next(name for name, present in available.items() if present)
    if not available[chosen]:
        raise ImageCapError(f"device is {chosen}, but this build of torch finds none here; use --device auto")
    if chosen == "cuda" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        number, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if number >= count:
            raise ImageCapError(f"process {number + 1} on this machine has no GPU: there are {count}; start {count}")
        torch.cuda.set_device(number)
        return torch.device("cuda", number)
    return torch.device(chosen)


def resolve_dtype(settings: ComputeSettings, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products; "auto" is bfloat16 where the GPU or the CPU computes fast in it.

    A choice of "auto" on a CPU other than float32, and a dtype that is slow on this CPU, are said once on standard
    error, by the main process.
    """
    if settings.dtype != "auto":
        dtype = _DTYPES[settings.dtype]
        if device.type == "cpu" and dtype != torch.float32 and not fast_on_cpu(dtype):
            _say(
                f"dtype: this processor has no instructions for {settings.dtype}, so that products take several times "
                "as long as in float32; it saves memory only"
            )
        return dtype
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu" and fast_on_cpu(torch.bfloat16):
        _say("dtype: bfloat16, for which this processor has instructions; --dtype float32 is slower and more exact")
        return torch.bfloat16
    return torch.float32


def fast_on_cpu(dtype: torch.dtype) -> bool:
    """Whether the CPU has instructions for matrix products of this 16-bit dtype, and torch a library that uses them.

    That library, oneDNN, can be kept from using them by the environment variable `ONEDNN_MAX_CPU_ISA`.
    """
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    if limit and not any(part in limit for part in ("ALL", "DEFAULT", "BF16", "FP16", "AMX", "AVX10")):
        return False
    # Apple's library, which torch uses on macOS, has no such products.
    if sys.platform == "darwin" or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.cpu, "get_capabilities"):  # before torch 2.10
        return dtype == torch.bfloat16 and bool(
            torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        )
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in _FAST[dtype])


@functools.cache
def _say(line: str) -> None:
    if os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr, flush=True)
