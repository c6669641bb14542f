"""The prefix, then one more token for every row or beam: the language model's blocks, little around their arithmetic.

A step over a few tokens of a small model costs less than the calls that lead to it. For the plainest and most common
blocks (Llama, Mistral, Qwen2, Qwen3) the step is written out here: no masks are rebuilt, no arguments are handed
down, queries of one group share their keys without a copy, queries and keys are turned together. Other language models
run as transformers has them.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import LlamaModel, MistralModel, Qwen2Model, Qwen3Model
from transformers.cache_utils import Cache

from imagecap.generate.attention import NAME, grouped_heads

if TYPE_CHECKING:
    from imagecap.generate.compilation import CompiledDecoder

# Their blocks differ in biases, which the projections bring themselves, and in the norms of queries and keys.
_PLAIN = (LlamaModel, MistralModel, Qwen2Model, Qwen3Model)


def read_prefix(decoder: Any, embeddings: Tensor, cache: Cache, compiled: "CompiledDecoder | None" = None) -> Tensor:
    """Put a prefix into an empty cache; return the hidden state of its last token, `[rows, hidden]`.

    The last block computes keys and values for all tokens, but the rest for the last one only: the others are not read.

    Args:
        decoder: the language model without its head.
        embeddings: `[rows, tokens, hidden]`.
        cache: empty.
        compiled: the decoder's blocks, if they are to be used.
    """
    if compiled is not None:
        return compiled.read_prefix(embeddings, cache)
    if is_plain(decoder):
        return _plain_prefix(decoder, embeddings, cache)
    return _last(decoder(inputs_embeds=embeddings, past_key_values=cache, use_cache=True))[:, -1]


def next_hidden(
    decoder: Any,
    embeddings: Tensor,
    cache: Cache,
    positions: Tensor | None = None,
    mask: Tensor | None = None,
    compiled: "CompiledDecoder | None" = None,
) -> Tensor:
    """Append tokens to the cache; return their last hidden states, `[rows, tokens, hidden]`.

    Args:
        decoder: the language model without its head.
        embeddings: `[rows, tokens, hidden]`.
        cache: keys and values of what came before.
        positions: `[rows, tokens]`; None: one token a row, at the number of slots in use.
        mask: `[rows, 1, tokens, slots]`, added to the scores; None: one token a row, which sees all slots.
        compiled: as in `read_prefix`.
    """
    if compiled is not None:
        return compiled.next_hidden(embeddings, cache, positions, mask)
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


def _plain_prefix(decoder: Any, embeddings: Tensor, cache: Cache) -> Tensor:
    """See `read_prefix`."""
    tokens = embeddings.shape[1]
    cos, sin = turns(decoder, embeddings, torch.arange(tokens, device=embeddings.device)[None])
    hidden = embeddings
    layers: list[Any] = list(cache.layers)
    for block, layer in zip(decoder.layers, layers, strict=True):
        run = end_of_prefix if layer is layers[-1] else through_prefix
        hidden, keys, values = run(block, hidden, cos, sin)
        layer.update(keys, values)
    return norm(decoder.norm, hidden)[:, 0]


def through_prefix(block: Any, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A block over prefixes `[rows, tokens, hidden]`: its result, its keys and values `[rows, heads, tokens, …]`."""
    query, key, value = projections(block, hidden, cos, sin)
    keys, values = key.transpose(1, 2).contiguous(), value.transpose(1, 2).contiguous()
    seen = nn.functional.scaled_dot_product_attention(
        query.transpose(1, 2),
        keys,
        values,
        is_causal=True,
        scale=block.self_attn.scaling,
        enable_gqa=query.shape[2] != keys.shape[1],
    )
    return finished(block, hidden, seen.transpose(1, 2).flatten(2)), keys, values


def end_of_prefix(block: Any, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The last block likewise; its result is that of the last tokens only, `[rows, 1, hidden]`."""
    query, key, value = projections(block, hidden, cos, sin, last_query=True)
    keys, values = key.transpose(1, 2).contiguous(), value.transpose(1, 2).contiguous()
    seen = _attend(query, keys, values, None, block.self_attn.scaling)
    return finished(block, hidden[:, -1:], seen), keys, values


def _plain_step(
    decoder: Any, embeddings: Tensor, cache: Cache, positions: Tensor | None, mask: Tensor | None
) -> Tensor:
    """See `next_hidden`."""
    config = decoder.config
    if positions is None:
        positions = torch.full((1, 1), cache.get_seq_length(), device=embeddings.device)
    cos, sin = turns(decoder, embeddings, positions)
    if mask is not None:
        mask = mask.repeat(1, 1, config.num_attention_heads // config.num_key_value_heads, 1)
    hidden = embeddings
    layers: list[Any] = list(cache.layers)
    for block, layer in zip(decoder.layers, layers, strict=True):
        query, key, value = projections(block, hidden, cos, sin)
        keys, values = layer.update(key.transpose(1, 2), value.transpose(1, 2))
        hidden = finished(block, hidden, _attend(query, keys, values, mask, block.self_attn.scaling))
    return norm(decoder.norm, hidden)


def _attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """What a few tokens see: `[rows, tokens, heads * head_dim]`."""
    seen = nn.functional.scaled_dot_product_attention(
        grouped(query, keys.shape[1]), keys, values, attn_mask=mask, scale=scaling
    )
    return ungrouped(seen, query.shape[1]).flatten(2)


def turns(decoder: Any, like: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines, each `[rows, tokens, 1, head_dim]`, by which `projections` turns queries and keys.

    Args:
        decoder: the language model without its head.
        like: of the dtype and on the device wanted.
        positions: `[rows, tokens]`.
    """
    cos, sin = (each.unsqueeze(2) for each in decoder.rotary_emb(like, positions))
    half = sin.shape[-1] // 2
    return cos, torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)  # the sign of the half that is turned


def projections(
    block: Any, hidden: Tensor, cos: Tensor, sin: Tensor, *, last_query: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries `[rows, tokens, heads, head_dim]`, keys and values (with their heads) of a block, turned.

    With `last_query` the queries are those of the last token, `[rows, 1, heads, head_dim]`.
    """
    attention = block.self_attn
    normed = norm(block.input_layernorm, hidden)
    query = attention.q_proj(normed[:, -1:] if last_query else normed).unflatten(2, (-1, attention.head_dim))
    key = attention.k_proj(normed).unflatten(2, (-1, attention.head_dim))
    value = attention.v_proj(normed).unflatten(2, (-1, attention.head_dim))
    if hasattr(attention, "q_norm"):
        query, key = norm(attention.q_norm, query), norm(attention.k_norm, key)
    if last_query:
        return _turned(query, cos[:, -1:], sin[:, -1:]), _turned(key, cos, sin), value
    heads = query.shape[2]
    both = _turned(torch.cat((query, key), dim=2), cos, sin)  # together: fewer calls
    return both[:, :, :heads], both[:, :, heads:], value


def _turned(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return heads * cos + heads.roll(heads.shape[-1] // 2, -1) * sin


def grouped(query: Tensor, key_heads: int) -> Tensor:
    """Query heads of one group as further queries of their key head: `[rows, key_heads, groups * tokens, head_dim]`."""
    rows, tokens, heads, dim = query.shape
    query = query.view(rows, tokens, key_heads, heads // key_heads, dim).permute(0, 2, 3, 1, 4)
    return query.reshape(rows, key_heads, -1, dim)


def ungrouped(seen: Tensor, tokens: int) -> Tensor:
    """The way back: `[rows, tokens, key_heads, groups, head_dim]`."""
    rows, key_heads, _, dim = seen.shape
    return seen.view(rows, key_heads, -1, tokens, dim).permute(0, 3, 1, 2, 4)


def finished(block: Any, hidden: Tensor, seen: Tensor) -> Tensor:
    """A block after its attention; all `[rows, tokens, hidden]`, of `seen` the heads side by side."""
    hidden = hidden + block.self_attn.o_proj(seen)
    out = hidden + block.mlp(norm(block.post_attention_layernorm, hidden))
    assert isinstance(out, Tensor)
    return out


def norm(module: Any, x: Tensor) -> Tensor:
    """The RMS norm; in other types than float32, in which it computes, with the roundings of the stock module."""
    if x.dtype == torch.float32:
        return nn.functional.rms_norm(x, (x.shape[-1],), module.weight, module.variance_epsilon)
    normed = module(x)
    assert isinstance(normed, Tensor)
    return normed
