"""Linear layers in float32 by oneDNN, on processors where torch's own choice, MKL, is slower.

MKL uses AVX-512 on processors of Intel only. On others that have it, oneDNN multiplies matrices of many rows at twice
the speed, with weights as they are. For few rows, as in a step of decoding, MKL stays faster. In code that is compiled
ahead of time, the numbers of rows are not known: whoever compiles says that there are many.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_FEWEST_ROWS = 32  # from which oneDNN is faster
# OneDNN generates code for each pair of shapes, in 0.1 ms, and keeps half a megabyte of it. Both it and torch remember
# the last 1024, by default. A batch of 32 pictures with beams, which end one by one, has about 200.
_CACHES, _KEPT_SHAPES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"), 512


class OneDnnLinear(nn.Linear):
    """A linear layer that shares the weights of another one. Where gradients are computed it is a stock layer.

    Args:
        linear: the other layer.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.training = linear.training

    def forward(self, inputs: Tensor) -> Tensor:
        """Map `[..., in]` to `[..., out]`."""
        if torch.compiler.is_compiling():
            # one token of each row, as behind the attention of the last block, is few rows
            if _compiling_for_many_rows.get() and _can_multiply(inputs) and inputs.shape[-2] != 1:
                return _product(inputs, self.weight, self.bias)
            return super().forward(inputs)
        if torch.is_grad_enabled() or not _is_wide(inputs):
            return super().forward(inputs)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self.weight, self.bias, "none", [], "")
        return product


def use_onednn(module: nn.Module) -> bool:
    """Replace the linear layers in a module, if oneDNN is faster on this machine; returns whether it is.

    It also limits what oneDNN keeps, as far as the environment does not, and oneDNN has not been used before.
    """
    if not is_onednn_faster():
        return False
    for name in _CACHES:
        os.environ.setdefault(name, str(_KEPT_SHAPES))
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, OneDnnLinear(child))
    return True


@cache
def is_onednn_faster() -> bool:
    """Whether this processor has AVX-512 and is not one of Intel."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if not torch.backends.mkl.is_available() or not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "GenuineIntel" not in described


def _is_wide(inputs: Tensor) -> bool:
    rows = inputs.numel() // max(1, inputs.shape[-1])
    return rows >= _FEWEST_ROWS and _can_multiply(inputs)


def _can_multiply(inputs: Tensor) -> bool:
    return inputs.dtype == torch.float32 and inputs.device.type == "cpu"


_compiling_for_many_rows: ContextVar[bool] = ContextVar("_compiling_for_many_rows", default=False)


@contextmanager
def compiling_for_many_rows(many: bool) -> Iterator[None]:
    """Say, while code is compiled ahead of time, whether it is for many rows, whose products oneDNN shall compute."""
    token = _compiling_for_many_rows.set(many)
    try:
        yield
    finally:
        _compiling_for_many_rows.reset(token)


@torch.library.custom_op("imagecap::onednn_linear", mutates_args=())
def _product(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The product in compiled code. torch compiles its own operator only for weights that are constants."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return product


@_product.register_fake
def _(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return inputs.new_empty(*inputs.shape[:-1], weight.shape[0])


@cache
def inductor_calls_onednn() -> bool:
    """Let torch's compiler, which must be loaded, translate `_product` to oneDNN's function in C++.

    Returns:
        Whether it can. The names that are imported are not part of torch's documented interface.
    """
    try:
        from torch._inductor.ir import TensorBox
        from torch._inductor.lowering import register_lowering
        from torch._inductor.mkldnn_ir import LinearUnary
    except ImportError:
        return False

    @register_lowering(torch.ops.imagecap.onednn_linear.default, type_promotion_kind=None)
    def product(inputs: Any, weight: Any, bias: Any) -> Any:
        return TensorBox.create(LinearUnary.create(inputs, weight, bias, "none", [], ""))

    return True
