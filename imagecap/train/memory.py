"""Memory of a training: using less of it, measuring it, and saying what to change when it runs out."""

import ctypes
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from imagecap.errors import ImageCapError
from imagecap.model.imagecap_arch import ImageCaptioner


def enable_gradient_checkpointing(model: ImageCaptioner) -> None:
    """Recompute activations of the language model's blocks in the backward pass instead of storing them.

    Gradient checkpointing (Chen et al. 2016, arXiv:1604.06174). Stock blocks recompute only in training mode. It is set
    on the blocks alone and not on their submodules, where it would enable dropout. It is off while a block computes,
    because some blocks (OPT, XGLM, BioGPT) apply dropout themselves.

    Raises:
        ImageCapError: the language model does not support gradient checkpointing.
    """
    blocks = checkpointing_blocks(model)
    if not blocks or not model.language_model.supports_gradient_checkpointing:
        raise ImageCapError("gradient_checkpointing: this language model cannot compute its blocks twice; leave it out")
    model.language_model.activation_checkpointing_enable({"use_reentrant": False})
    for block in blocks:
        block.training = True
        vars(block)["_gradient_checkpointing_func"] = partial(_compute_twice, block)


def _compute_twice(block: torch.nn.Module, forward: Callable[..., Any], *arguments: Any) -> Any:
    """Run the `forward` of a block without storing its activations, and in evaluation mode both times."""

    def evaluating(*arguments: Any) -> Any:
        block.training = False
        try:
            return forward(*arguments)
        finally:  # torch ends the second time by an exception, when it has what it needs
            block.training = True

    return checkpoint(evaluating, *arguments, use_reentrant=False)


def checkpointing_blocks(model: ImageCaptioner) -> list[torch.nn.Module]:
    """The language model's blocks that gradient checkpointing recomputes, while they are in training mode."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.language_model.modules() if isinstance(module, GradientCheckpointingLayer)]


def store_frozen_weights_in(model: ImageCaptioner, dtype: torch.dtype) -> None:
    """Hold the frozen matrices of the language model in `dtype` while training, where this is lossless.

    Most hub checkpoints are bfloat16, so this halves their memory and saves casting them at every step. `model.float()`
    restores the same float32 weights bit for bit.
    """
    if dtype == torch.float32:
        return
    for weight in [*model.language_model.parameters(), model.lm_head.weight]:
        if not weight.requires_grad and weight.ndim >= 2 and weight.dtype == torch.float32:
            small = weight.data.to(dtype)
            if torch.equal(small.float(), weight.data):
                weight.data = small
    release_freed_memory()


def release_freed_memory() -> None:
    """Return freed memory to the operating system (glibc's `malloc_trim`; elsewhere nothing happens).

    The C library keeps freed memory that lies between blocks in use. After loading, that is as much as the model.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


@contextmanager
def memory_errors(batch_size: int) -> Iterator[None]:
    """Turn an out-of-memory error into an ImageCapError that says which settings to change."""
    with _out_of_memory(
        f"out of memory with batch_size {batch_size}: lower --batch_size and raise --gradient_accumulation_steps "
        "by the same factor (the result stays the same), or give --batch_tokens (also with --resume), "
        "--gradient_checkpointing, --captions_per_image or --dtype bfloat16"
    ):
        yield


@contextmanager
def memory_errors_of_saving() -> Iterator[None]:
    """Turn an out-of-memory error into an ImageCapError that says that the training can be completed."""
    with _out_of_memory(
        "out of memory while the trained model was written; the training state is kept: give the process more memory "
        "and complete the run with --resume"
    ):
        yield


@contextmanager
def _out_of_memory(message: str) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError):
            text = str(error)
            if "allocate memory" not in text and "out of memory" not in text:
                raise
        raise ImageCapError(message) from error


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: allocated on the GPU, or else the peak resident set of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kilobytes
