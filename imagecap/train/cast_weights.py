"""Weights of a frozen module in another dtype, cast once instead of by autocast in every forward pass."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class CastWeights:
    """Copies of the weights of the linear layers of a frozen module, as autocast would cast them.

    Autocast keeps the copies that it makes of weights that train only, so it would cast those of a frozen module for
    every batch. The results are equal bit for bit.

    Args:
        module: the module; its weights do not change.
        dtype: dtype of the copies; with float32 there are none.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        self._module, self._dtype = module, dtype
        self._copies: list[tuple[nn.Linear, Tensor]] | None = None

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Within the block the layers have the copies as weights. The first block makes them."""
        if self._copies is None:
            layers = [layer for layer in self._module.modules() if isinstance(layer, nn.Linear)]
            self._copies = [
                (layer, layer.weight.data.to(self._dtype)) for layer in layers if self._dtype != torch.float32
            ]
        originals = [layer.weight.data for layer, _ in self._copies]
        for layer, copy in self._copies:
            layer.weight.data = copy
        try:
            yield
        finally:
            for (layer, _), original in zip(self._copies, originals, strict=True):
                layer.weight.data = original
