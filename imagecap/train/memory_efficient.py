"""Memory-efficient RMS norms and gated MLPs, which save fewer tensors for the backward pass.

The modules of transformers save every intermediate result, in float32. Here an RMS norm saves its input and one scale
per token, a gated product saves its two factors, and the backward pass recomputes the rest. This is the idea of Liger
Kernel (Hsu et al. 2024, arXiv:2410.10989), in plain torch. Only the `forward` of a module is replaced, and only if both
give the same output for a random input.
"""

import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from imagecap.model.imagecap_arch import ImageCaptioner


class _RmsNorm(torch.autograd.Function):
    """`x / sqrt(mean(x²) + eps) * weight` (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale).mul_(weight).to(dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight, scale = ctx.saved_tensors
        normed = x * scale
        wide = grad.to(normed.dtype)
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (wide * normed).reshape(-1, x.shape[-1]).sum(0).to(weight.dtype)
        # The gradient with respect to x is orthogonal to x: its component along x is subtracted.
        grad_normed = wide * weight
        along = torch.linalg.vecdot(grad_normed, normed).div_(x.shape[-1]).unsqueeze(-1)
        return grad_normed.sub_(normed.mul_(along)).mul_(scale).to(x.dtype), grad_weight, None, None


class _GatedProduct(torch.autograd.Function):
    """`silu(gate) * up` (Shazeer 2020, arXiv:2002.05202)."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        gate, up = ctx.saved_tensors
        grad_gate = torch.ops.aten.silu_backward(grad * up, gate)
        return grad_gate, nn.functional.silu(gate).mul_(grad)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS norm over the last dimension, computed in float32 at least.

    Under autocast the output of a float32 input has the autocast dtype, to which the next matrix product would cast it.

    Args:
        x: `[..., hidden]`.
        weight: `[hidden]`.
        eps: added to the mean square.

    Returns:
        `[..., hidden]`.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    if x.dtype == torch.float32 and torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
    out = _RmsNorm.apply(x, weight, eps, dtype)
    assert isinstance(out, Tensor)
    return out


def gated_product(gate: Tensor, up: Tensor) -> Tensor:
    """`silu(gate) * up`; both tensors have the same shape and dtype."""
    out = _GatedProduct.apply(gate, up)
    assert isinstance(out, Tensor)
    return out


def memory_efficient_forwards(model: ImageCaptioner) -> list[tuple[nn.Module, Any]]:
    """RMS norms and gated MLPs of the language model, each with a replacement of its `forward`.

    The result is used by `replaced_forwards`. Modules whose output would differ are left out.
    """
    found: list[tuple[nn.Module, Any]] = []
    equal: dict[type, bool] = {}  # by type of module
    for module in model.language_model.modules():
        replacement: Any = None
        if hasattr(module, "variance_epsilon") and hasattr(module, "weight"):
            replacement = _norm_forward
        elif all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")):
            replacement = _mlp_forward
        if replacement is not None:
            kind = type(module)
            if kind not in equal:
                equal[kind] = _same_output(module, replacement)
            if equal[kind]:
                found.append((module, types.MethodType(replacement, module)))
    return found


def _norm_forward(module: Any, hidden_states: Tensor) -> Tensor:
    return rms_norm(hidden_states, module.weight, module.variance_epsilon)


def _mlp_forward(module: Any, x: Tensor) -> Any:
    return module.down_proj(gated_product(module.gate_proj(x), module.up_proj(x)))


@torch.no_grad()
def _same_output(module: Any, replacement: Any) -> bool:
    """Whether module and replacement have the same output: norms of Gemma add 1 to the weight, some MLPs use GELU.

    Rows of the input are as different as hidden states: small or large, with a mean far from 0, with outliers.
    """
    weight = next(module.parameters())
    x = torch.randn(12, weight.shape[-1], generator=torch.Generator().manual_seed(0))
    x[4:8] += 3
    x[8:, ::7] *= 40
    x *= torch.tensor([1e-3, 0.1, 3, 30]).repeat(3)[:, None]
    x = x.to(weight.device, weight.dtype)
    try:
        expected, found = module(x).float(), replacement(module, x).float()
    except Exception:  # a module of the same parts that takes something else
        return False
    return bool(((expected - found).abs().amax(1) <= 2e-2 * expected.abs().amax(1)).all())


@contextmanager
def replaced_forwards(modules: list[tuple[nn.Module, Any]]) -> Iterator[None]:
    """Replace the `forward` of modules within a `with` block.

    Args:
        modules: modules, each with its replacement.
    """
    for module, forward in modules:
        module.forward = forward
    try:
        yield
    finally:
        for module, _ in modules:
            vars(module).pop("forward", None)
