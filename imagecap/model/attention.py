"""Grouped-query attention without repeated keys, and changing the attention of a stock model for a while.

Where several query heads share a key head (grouped-query attention; Ainslie et al. 2023, arXiv:2305.13245), stock
attention often writes keys and values out once per query head. Query heads of one group can as well be further queries
of their one key head, which changes no result and copies nothing large.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from torch import Tensor

_lock = Lock()
_users: dict[int, int] = {}  # id of a configuration → threads that are inside `attention_kernel` with it


def group_queries(query: Tensor, key_heads: int) -> Tensor:
    """Lay the query heads that share a key head one behind the other, as further queries of that key head.

    Args:
        query: `[batch, heads, tokens, head_dim]`.
        key_heads: number of key heads, of which `heads` is a multiple.

    Returns:
        `[batch, key_heads, heads / key_heads * tokens, head_dim]`.
    """
    batch, heads, tokens, dim = query.shape
    return query.reshape(batch, key_heads, heads // key_heads * tokens, dim)


def ungroup_queries(output: Tensor, tokens: int) -> Tensor:
    """Undo `group_queries` for the output of attention.

    Args:
        output: `[batch, key_heads, heads / key_heads * tokens, head_dim]`.
        tokens: number of tokens that each head had.

    Returns:
        `[batch, heads, tokens, head_dim]`.
    """
    batch, key_heads, _, dim = output.shape
    return output.view(batch, key_heads, -1, tokens, dim).flatten(1, 2)


@contextmanager
def attention_kernel(config: Any, name: str, kernel: Callable[..., tuple[Tensor, Tensor | None]]) -> Iterator[None]:
    """Let the stock model of `config` attend by `kernel` instead of sdpa inside the block.

    Models with another attention implementation keep it. Threads may overlap: the last one to leave switches back.

    Args:
        config: the model's configuration.
        name: under which the kernel is registered with transformers.
        kernel: a function of transformers' `AttentionInterface`; it gets masks as sdpa does.
    """
    if config._attn_implementation not in ("sdpa", name):
        yield
        return
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(name, kernel)
    AttentionMaskInterface.register(name, sdpa_mask)
    with _lock:
        _users[id(config)] = _users.get(id(config), 0) + 1
        config._attn_implementation = name
    try:
        yield
    finally:
        with _lock:
            _users[id(config)] -= 1
            if not _users[id(config)]:
                del _users[id(config)]
                config._attn_implementation = "sdpa"
