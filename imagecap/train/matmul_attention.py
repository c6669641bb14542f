"""Attention by two matrix products and a softmax, for bfloat16 on the CPU, where torch's fused kernel is slower.

With a few hundred tokens the scores fit in the CPU cache. Forward and backward pass then take a half to a sixth of the
time of `scaled_dot_product_attention` (`python -m benchmarks.attention`). Scores and probabilities are rounded to
bfloat16, as in transformers' eager attention. Query heads that share a key head are rows of one matrix product
(grouped-query attention; Ainslie et al. 2023, arXiv:2305.13245), so keys and values are not repeated.
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
MAX_KEYS = 1024  # with more keys the scores exceed the CPU cache, and the fused kernel takes less memory


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Softmax attention, computed in the dtype of its inputs.

    Args:
        query: `[batch, heads, queries, head_dim]`.
        key: `[batch, key_heads, keys, head_dim]`; `heads / key_heads` consecutive query heads share a key head.
        value: `[batch, key_heads, keys, value_dim]`.
        bias: added to the scores, `[batch, 1, queries, keys]`: 0, or a large negative number where a key is masked.
        scale: factor of the scores.

    Returns:
        `[batch, heads, queries, value_dim]`.
    """
    batch, heads, queries, size = query.shape
    key_heads, keys = key.shape[1], key.shape[2]
    # Autocast would compute the softmax in float32, which takes twice the memory and time.
    with torch.autocast(query.device.type, enabled=False):
        rows = group_queries(query, key_heads).flatten(0, 1)
        columns = key.reshape(batch * key_heads, keys, size).transpose(1, 2)
        if bias is None:
            scores = torch.bmm(rows * scale, columns)
        else:
            expanded = bias[:, None].expand(batch, key_heads, heads // key_heads, queries, keys)
            scores = torch.baddbmm(expanded.reshape(*rows.shape[:2], keys), rows, columns, alpha=scale)
        mixed = torch.bmm(torch.softmax(scores, dim=-1), value.reshape(batch * key_heads, keys, value.shape[-1]))
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
    """`attend` as a function of transformers' `AttentionInterface`.

    It calls sdpa attention instead if there are more than `MAX_KEYS` keys, if attention is causal without a mask, if
    heads have masks of their own, or if there is dropout, a soft cap, a position bias or an attention sink.
    """
    unsupported = any(others.get(name) is not None for name in ("softcap", "s_aux", "position_bias")) or dropout > 0
    unsupported |= attention_mask is not None and attention_mask.shape[1] != 1
    causal = attention_mask is None and bool(others.get("is_causal", getattr(module, "is_causal", False)))
    if unsupported or causal or key.shape[2] > MAX_KEYS:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        mixed, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **others
        )
        return mixed, None
    scale = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
    dtype = value.dtype  # after norms and rotary embedding, queries and keys may be float32
    bias = None if attention_mask is None else attention_mask.to(dtype)
    mixed = attend(query.to(dtype), key.to(dtype), value, bias, scale)
    return mixed.transpose(1, 2).contiguous(), None  # as that of sdpa: some models view it


@contextmanager
def matmul_attention(model: ImageCaptioner, active: bool) -> Iterator[None]:
    """Use `attend` in the vision encoder and the language model within a `with` block, if `active`."""
    configs = [part.config for part in (model.language_model, model.vision_tower)] if active else []
    with ExitStack() as stack:
        for config in configs:
            stack.enter_context(attention_kernel(config, MATMUL_ATTENTION, _forward))
        yield
