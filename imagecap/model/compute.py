"""The device that a model runs on and the dtype of its matrix products."""

import torch

from imagecap.config import ComputeSettings
from imagecap.errors import ImageCapError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(settings: ComputeSettings) -> torch.device:
    """Return the device that is asked for; "auto" takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        ImageCapError: this machine, or this build of torch, does not have it.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if settings.device == "auto":
        return torch.device(next(name for name, present in available.items() if present))
    if not available[settings.device]:
        raise ImageCapError(f"device is {settings.device}, but this build of torch finds none here; use --device auto")
    return torch.device(settings.device)


def resolve_dtype(settings: ComputeSettings, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products; "auto" is bfloat16 on a CUDA GPU that supports it, else float32."""
    if settings.dtype != "auto":
        return _DTYPES[settings.dtype]
    supported = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if supported else torch.float32
