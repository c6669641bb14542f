"""The prefix, then one more token for every row or beam: the language model's blocks, little around their arithmetic.

A step over a few tokens of a small model costs less than the calls that lead to it. For the plainest and most common
blocks (Llama, Mistral, Qwen2, Qwen3) the step is written out here: no masks are rebuilt, no arguments are handed
down, queries of one group share their keys without a copy, queries and keys are turned together. Other language models
run as transformers has them.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaModel, MistralModel, Qwen2Model, Qwen3Model
from transformers.cache_utils import Cache

from imagecap.generate.attention import NAME, grouped_heads

# Their blocks differ in biases, which the projections bring themselves, and in the norms of queries and keys.
_PLAIN = (LlamaModel, MistralModel, Qwen2Model, Qwen3Model)


def read_prefix(decoder: Any, embeddings: Tensor, cache: Cache) -> Tensor:
    """Put a prefix into an empty cache; return the hidden state of its last token, `[rows, hidden]`.

    The last block computes keys and values for all tokens, but the rest for the last one only: nobody reads the others.

    Args:
        decoder: the language model without its head.
        embeddings: `[rows, tokens, hidden]`.
        cache: empty.
    """
    if is_plain(decoder):
        return _plain_step(decoder, embeddings, cache, None, None, first=True)[:, -1]
    return _last(decoder(inputs_embeds=embeddings, past_key_values=cache, use_cache=True))[:, -1]


def next_hidden(
    decoder: Any, embeddings: Tensor, cache: Cache, positions: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Append tokens to the cache; return their last hidden states, `[rows, tokens, hidden]`.

    Args:
        decoder: the language model without its head.
        embeddings: `[rows, tokens, hidden]`.
        cache: keys and values of what came before.
        positions: `[rows, tokens]`; None: one token a row, at the number of slots in use.
        mask: `[rows, 1, tokens, slots]`, added to the scores; None: one token a row, which sees all slots.
    """
    if is_plain(decoder):
        return _plain_step(decoder, embeddings, cache, positions, mask)
    if mask is None:
        return _last(decoder(inputs_embeds=embeddings, past_key_values=cache, use_cache=True))
    with grouped_heads(decoder.config):
        return _last(
            decoder(
                inputs_embeds=embeddings,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
        )


def is_plain(decoder: Any) -> bool:
    """Whether this language model's step is the one that is written out here."""
    config = decoder.config
    return type(decoder) in _PLAIN and config._attn_implementation in ("sdpa", NAME) and has_no_window(config)


def has_no_window(config: Any) -> bool:
    """Whether every layer attends over all that came before."""
    return set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"} and not (
        getattr(config, "use_sliding_window", True) and getattr(config, "sliding_window", None)
    )


def _last(output: Any) -> Tensor:
    hidden = output.last_hidden_state
    assert isinstance(hidden, Tensor)
    return hidden


def _plain_step(
    decoder: Any, embeddings: Tensor, cache: Cache, positions: Tensor | None, mask: Tensor | None, first: bool = False
) -> Tensor:
    """See `next_hidden`; with `first` the tokens are a prefix, of which the result holds the last one."""
    config = decoder.config
    rows, tokens, _ = embeddings.shape
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    groups, dim = heads // key_heads, decoder.layers[0].self_attn.head_dim
    if positions is None:
        start = cache.get_seq_length()
        positions = torch.arange(start, start + tokens, device=embeddings.device)[None]
    cos, sin = (each.unsqueeze(2) for each in decoder.rotary_emb(embeddings, positions))  # [rows, tokens, 1, head_dim]
    sin = torch.cat((-sin[..., : dim // 2], sin[..., dim // 2 :]), dim=-1)  # the sign of the half that is turned
    if mask is not None and groups > 1:
        mask = mask.repeat(1, 1, groups, 1)
    hidden = embeddings
    layers: list[Any] = list(cache.layers)
    for block, layer in zip(decoder.layers, layers, strict=True):
        attention = block.self_attn
        normed = _norm(block.input_layernorm, hidden)
        query = attention.q_proj(normed).view(rows, tokens, heads, dim)
        key = attention.k_proj(normed).view(rows, tokens, key_heads, dim)
        value = attention.v_proj(normed).view(rows, tokens, key_heads, dim)
        if type(decoder) is Qwen3Model:
            query, key = _norm(attention.q_norm, query), _norm(attention.k_norm, key)
        both = torch.cat((query, key), dim=2)
        both = both * cos + both.roll(dim // 2, -1) * sin
        query, key = both[:, :, :heads], both[:, :, heads:]
        keys, values = layer.update(key.transpose(1, 2), value.transpose(1, 2))
        if first and layer is layers[-1]:
            query, hidden, tokens = query[:, -1:], hidden[:, -1:], 1
        if tokens > 1 and first:
            seen = nn.functional.scaled_dot_product_attention(
                query.transpose(1, 2), keys, values, is_causal=True, scale=attention.scaling, enable_gqa=groups > 1
            ).transpose(1, 2)
        else:
            # query heads of one group as further queries of their key head
            query = query.view(rows, tokens, key_heads, groups, dim).permute(0, 2, 3, 1, 4)
            seen = nn.functional.scaled_dot_product_attention(
                query.reshape(rows, key_heads, groups * tokens, dim),
                keys,
                values,
                attn_mask=mask,
                scale=attention.scaling,
            )
            seen = seen.view(rows, key_heads, groups, tokens, dim).permute(0, 3, 1, 2, 4)
        hidden = hidden + attention.o_proj(seen.reshape(rows, tokens, heads * dim))
        hidden = hidden + block.mlp(_norm(block.post_attention_layernorm, hidden))
    return _norm(decoder.norm, hidden)


def _norm(module: Any, x: Tensor) -> Tensor:
    """The RMS norm; in other types than float32, in which it computes, with the roundings of the stock module."""
    if x.dtype == torch.float32:
        return nn.functional.rms_norm(x, (x.shape[-1],), module.weight, module.variance_epsilon)
    normed = module(x)
    assert isinstance(normed, Tensor)
    return normed
