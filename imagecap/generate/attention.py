"""Attention of a few beams over many shared slots, without a copy of the keys for every head.

Where several query heads share a key head, transformers' sdpa attention writes out keys and values once per query head
if a mask is given, at every step of every layer. For a handful of beams that copy costs several times the attention
itself. Query heads of one group can as well stand side by side as more queries of their one key head.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "imagecap_grouped_sdpa"

_lock = Lock()
_users: dict[int, int] = {}  # id of a configuration → how many threads have it switched


def grouped_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Sdpa attention in the form that transformers calls.

    Args:
        module: the attention block.
        query: `[rows, heads, tokens, head_dim]`.
        key: `[rows, key_heads, slots, head_dim]`.
        value: `[rows, key_heads, slots, head_dim]`.
        attention_mask: `[rows, 1, tokens, slots]`, added to the scores; None or another shape: transformers' own way.
        dropout: share of weights that are dropped.
        scaling: factor of the scores.
        **kwargs: what else transformers passes; a soft cap or a position bias: transformers' own way.
    """
    rows, heads, tokens, dim = query.shape
    groups = heads // key.shape[1]
    special = kwargs.get("softcap") is not None or kwargs.get("position_bias") is not None
    if attention_mask is None or attention_mask.shape[1] != 1 or groups == 1 or special:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    output = nn.functional.scaled_dot_product_attention(
        query.reshape(rows, key.shape[1], groups * tokens, dim),
        key,
        value,
        attn_mask=attention_mask.repeat(1, 1, groups, 1),
        dropout_p=dropout,
        scale=scaling,
    )
    return output.view(rows, heads, tokens, -1).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, grouped_sdpa)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextmanager
def grouped_heads(config: Any) -> Iterator[None]:
    """Let the model of this configuration use `grouped_sdpa` instead of sdpa; other kinds of attention stay.

    Threads may overlap: the last one out switches back.
    """
    if config._attn_implementation not in ("sdpa", NAME):
        yield
        return
    with _lock:
        _users[id(config)] = _users.get(id(config), 0) + 1
        config._attn_implementation = NAME
    try:
        yield
    finally:
        with _lock:
            _users[id(config)] -= 1
            if not _users[id(config)]:
                del _users[id(config)]
                config._attn_implementation = "sdpa"
