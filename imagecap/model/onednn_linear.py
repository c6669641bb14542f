"""Linear layers in float32 by oneDNN, on processors where torch's own choice, MKL, is slower.

MKL uses AVX-512 on processors of Intel only. On others that have it, oneDNN multiplies matrices of many rows at twice
the speed, with weights as they are. For few rows, as in a step of decoding, MKL stays faster.
"""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

# From so many rows on oneDNN is faster. It keeps up to a megabyte for each number of rows that it has seen, so products
# are made of pieces whose numbers of rows are powers of two.
_FEWEST_ROWS = 32


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
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or not _is_wide(inputs):
            return super().forward(inputs)
        rows = inputs.reshape(-1, self.in_features)
        pieces = [
            torch.ops.mkldnn._linear_pointwise(piece, self.weight, self.bias, "none", [], "")
            if len(piece) >= _FEWEST_ROWS
            else nn.functional.linear(piece, self.weight, self.bias)
            for piece in rows.split(_powers_of_two(len(rows)))
        ]
        product = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        return product.view(*inputs.shape[:-1], self.out_features)


def use_onednn(module: nn.Module) -> bool:
    """Replace the linear layers in a module, if oneDNN is faster on this machine; returns whether it is."""
    if not is_onednn_faster():
        return False
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
    return rows >= _FEWEST_ROWS and inputs.dtype == torch.float32 and inputs.device.type == "cpu"


def _powers_of_two(rows: int) -> list[int]:
    """Powers of two of at least `_FEWEST_ROWS`, largest first, and what is left: together a number of rows."""
    sizes = []
    while rows >= _FEWEST_ROWS:
        sizes.append(1 << (rows.bit_length() - 1))
        rows -= sizes[-1]
    return [*sizes, rows] if rows else sizes
