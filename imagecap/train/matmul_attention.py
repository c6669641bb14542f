"""Attention by two matrix products and a softmax, for bfloat16 on the CPU, where torch's fused kernel is slower.

Over a few hundred tokens the scores fit in the processor's cache, and forward and backward pass take a half to a sixth
of the time of `scaled_dot_product_attention` (`python -m benchmarks.attention`). Scores and probabilities are
rounded to bfloat16, as in transformers' eager attention. Query heads that share a key head are rows of one matrix
product (grouped-query attention; Ainslie et al. 2023, arXiv:2305.13245), so keys and values are never repeated.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from imagecap.model.attention import attention_kernel, group_queries, ungroup_queries
from imagecap.model.imagecap_arch import ImageCaptioner

MATMUL_ATTENTION = "imagecap_products"
MAX_KEYS = 1024  # with more keys the scores outgrow the cache, and the fused kernel needs less memory


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Softmax attention, computed in the dtype of its inputs.

    Args:
        query: `[batch, heads, queries, head]`.
        key, value: `[batch, key heads, keys, head]`; every key head serves `heads / key heads` query heads in turn.
        bias: `[batch, 1, queries, keys]`, is added to the scores: 0, or -inf where a key is masked.
        scale: factor of the scores.

    Returns:
        `[batch, heads, queries, head]`.
    """
    batch, heads, queries, size = query.shape
    key_heads, keys = key.shape[1], key.shape[2]
    # autocast would compute the softmax and its probabilities in float32, at twice the memory and time
    with torch.autocast(query.device.type, enabled=False):
        rows = group_queries(query, key_heads).flatten(0, 1)
        columns = key.reshape(batch * key_heads, keys, size).transpose(1, 2)
        if bias is None:
            scores = torch.bmm(rows * scale, columns)
        else:
            wide = bias[:, None].expand(batch, key_heads, heads // key_heads, queries, keys)
            scores = torch.baddbmm(wide.reshape(*rows.shape[:2], keys), rows, columns, alpha=scale)
        mixed = torch.bmm(torch.softmax(scores, dim=-1), value.reshape(batch * key_heads, keys, size))
    return ungroup_queries(mixed.unflatten(0, (batch, key_heads)), queries)


def _forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, None]:
    """`attend` with the signature of transformers' attention functions; falls back to the stock kernel."""
    unsupported = any(others.get(name) is not None for name in ("softcap", "s_aux", "position_bias")) or dropout > 0
    causal = attention_mask is None and bool(others.get("is_causal", getattr(module, "is_causal", False)))
    if unsupported or causal or key.shape[2] > MAX_KEYS:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        mixed, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **others
        )
        return mixed, None
    scale = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
    dtype = value.dtype  # RMS norms and rotary embeddings give float32
    bias = None if attention_mask is None else attention_mask.to(dtype)
    return attend(query.to(dtype), key.to(dtype), value, bias, scale).transpose(1, 2), None


@contextmanager
def matmul_attention(model: ImageCaptioner, active: bool) -> Iterator[None]:
    """Let vision encoder and language model use `attend` inside a `with` block, if `active`."""
    configs = [part.config for part in (model.language_model, model.vision_tower)] if active else []
    with ExitStack() as stack:
        for config in configs:
            stack.enter_context(attention_kernel(config, MATMUL_ATTENTION, _forward))
        yield
