"""What the model runs on: the device, and the type of its matrix products."""

import torch

from imagecap.config import ComputeSettings
from imagecap.errors import ImageCapError

_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(settings: ComputeSettings) -> torch.device:
    """The device that is asked for; "auto" takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        ImageCapError: this machine, or this build of torch, does not have it.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if settings.device == "auto":
        return torch.device(next(name for name, there in available.items() if there))
    if not available[settings.device]:
        raise ImageCapError(f"device is {settings.device}, but this build of torch finds none here; use --device auto")
    return torch.device(settings.device)


def resolve_dtype(settings: ComputeSettings, device: torch.device) -> torch.dtype:
    """The type of matrix products; "auto" is bfloat16 on a CUDA GPU that computes in it, else float32."""
    if settings.dtype != "auto":
        return _TYPES[settings.dtype]
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if fast else torch.float32
