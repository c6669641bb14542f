"""The device that a model runs on and the dtype of its matrix products."""

import os

import torch

from imagecap.config import ComputeSettings
from imagecap.errors import ImageCapError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
    """Return the dtype of matrix products; "auto" is bfloat16 on a CUDA GPU that supports it, else float32."""
    if settings.dtype != "auto":
        return _DTYPES[settings.dtype]
    supported = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if supported else torch.float32
