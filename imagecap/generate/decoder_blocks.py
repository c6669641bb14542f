"""The transformer blocks of Llama, Mistral, Qwen2 and Qwen3, written out in few operations.

A step over a few tokens of a small model costs less than the Python calls that lead to it. Here no mask is rebuilt, no
arguments are passed on, the query heads of a group share their keys without a copy, and queries and keys are rotated in
one operation. The blocks of the four families differ in biases, which their projections apply themselves, and in
whether queries and keys are normalised.
"""

from typing import Any

import torch
from torch import Tensor, nn

from imagecap.model.attention import group_queries, ungroup_queries
from imagecap.model.causal_attention import causal_attention


def prefill_block(block: Any, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Run a block over prefixes with causal attention.

    Args:
        block: the stock module.
        hidden: `[rows, tokens, hidden]`.
        cos: from `rotary_embedding`.
        sin: from `rotary_embedding`.

    Returns:
        Hidden states `[rows, tokens, hidden]`, keys and values `[rows, key_heads, tokens, head_dim]`.
    """
    query, key, value = project_qkv(block, hidden, cos, sin)
    keys, values = key.transpose(1, 2).contiguous(), value.transpose(1, 2).contiguous()
    attended = causal_attention(query.transpose(1, 2), keys, values, block.self_attn.scaling)
    return output_and_mlp(block, hidden, attended.transpose(1, 2).flatten(2)), keys, values


def prefill_last_block(block: Any, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Run the last block over prefixes: keys and values of all tokens, but hidden states of the last token only.

    Nothing reads the other hidden states. Arguments and results are those of `prefill_block`, with hidden states
    `[rows, 1, hidden]`.
    """
    query, key, value = project_qkv(block, hidden, cos, sin, last_query=True)
    keys, values = key.transpose(1, 2).contiguous(), value.transpose(1, 2).contiguous()
    attended = attend(query, keys, values, None, block.self_attn.scaling)
    return output_and_mlp(block, hidden[:, -1:], attended), keys, values


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """Attention of a few tokens over the cache.

    Args:
        query: `[rows, tokens, heads, head_dim]`.
        keys: `[rows, key_heads, slots, head_dim]`.
        values: `[rows, key_heads, slots, head_dim]`.
        mask: added to the scores, `[rows, 1, heads / key_heads * tokens, slots]`; None: no slot is masked.
        scaling: factor of the scores.

    Returns:
        `[rows, tokens, heads * head_dim]`.
    """
    grouped = group_queries(query.transpose(1, 2), keys.shape[1])
    attended = nn.functional.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scaling)
    return ungroup_queries(attended, query.shape[1]).transpose(1, 2).flatten(2)


def rotary_embedding(language_model: Any, like: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines of the rotary position embedding (RoPE; Su et al. 2021, arXiv:2104.09864).

    Args:
        language_model: the language model without its head.
        like: a tensor of the dtype and on the device wanted.
        positions: `[rows, tokens]`.

    Returns:
        Two tensors `[rows, tokens, 1, head_dim]`. The first half of the sines is negative, as `project_qkv` needs it.
    """
    cos, sin = (each.unsqueeze(2) for each in language_model.rotary_emb(like, positions))
    half = sin.shape[-1] // 2
    return cos, torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)


def project_qkv(
    block: Any, hidden: Tensor, cos: Tensor, sin: Tensor, *, last_query: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Project normalised hidden states to queries, keys and values; queries and keys are rotated.

    Args:
        block: the stock module.
        hidden: `[rows, tokens, hidden]`.
        cos: from `rotary_embedding`.
        sin: from `rotary_embedding`.
        last_query: compute the query of the last token only.

    Returns:
        Queries `[rows, tokens or 1, heads, head_dim]`, keys and values `[rows, tokens, key_heads, head_dim]`.
    """
    attention = block.self_attn
    normed = rms_norm(block.input_layernorm, hidden)
    query = attention.q_proj(normed[:, -1:] if last_query else normed).unflatten(2, (-1, attention.head_dim))
    key = attention.k_proj(normed).unflatten(2, (-1, attention.head_dim))
    value = attention.v_proj(normed).unflatten(2, (-1, attention.head_dim))
    if hasattr(attention, "q_norm"):
        query, key = rms_norm(attention.q_norm, query), rms_norm(attention.k_norm, key)
    if last_query:
        return _rotate(query, cos[:, -1:], sin[:, -1:]), _rotate(key, cos, sin), value
    heads = query.shape[2]
    rotated = _rotate(torch.cat((query, key), dim=2), cos, sin)  # in one go: fewer calls
    return rotated[:, :, :heads], rotated[:, :, heads:], value


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return heads * cos + heads.roll(heads.shape[-1] // 2, -1) * sin


def output_and_mlp(block: Any, hidden: Tensor, attended: Tensor) -> Tensor:
    """Finish a block after its attention: output projection, MLP and the residual connections of both.

    Args:
        block: the stock module.
        hidden: input of the block, `[rows, tokens, hidden]`.
        attended: output of attention, `[rows, tokens, heads * head_dim]`.

    Returns:
        `[rows, tokens, hidden]`.
    """
    hidden = hidden + block.self_attn.o_proj(attended)
    output = hidden + block.mlp(rms_norm(block.post_attention_layernorm, hidden))
    assert isinstance(output, Tensor)
    return output


def rms_norm(module: Any, hidden: Tensor) -> Tensor:
    """Root-mean-square norm by the weights of a stock module.

    torch's fused function does not round as the stock module does, which computes in float32 and multiplies by the
    weights in the dtype of the hidden states. So in types of 16 bits only the part in float32 is fused.
    """
    shape, eps = (hidden.shape[-1],), module.variance_epsilon
    if hidden.dtype == torch.float32:
        return nn.functional.rms_norm(hidden, shape, module.weight, eps)
    if hidden.dtype in (torch.bfloat16, torch.float16):
        return module.weight * nn.functional.rms_norm(hidden.float(), shape, None, eps).to(hidden.dtype)
    normed = module(hidden)
    assert isinstance(normed, Tensor)
    return normed
