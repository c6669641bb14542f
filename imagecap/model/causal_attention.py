"""Causal attention of whole prefixes, by matrix products where the processor has instructions for them in bfloat16.

torch's own kernel takes half as long again or twice as long (AMD with AVX512_BF16, torch 2.13).
"""

import torch
from torch import Tensor, nn

from imagecap.model.attention import group_queries
from imagecap.model.compute import fast_on_cpu

_QUERIES = 128  # whose scores are computed at a time: with fewer, products are slow; with more, scores leave caches
_FEWEST_TOKENS = 64  # of a prefix; below, the operations cost more than torch's kernel
_SCORES = 1 << 20  # computed at a time, at most, if that is more than one row's


def causal_attention(query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
    """Attention of each token to itself and the tokens before it.

    Args:
        query: `[rows, heads, tokens, head_dim]`.
        keys: `[rows, key_heads, tokens, head_dim]`.
        values: `[rows, key_heads, tokens, head_dim]`.
        scaling: factor of the scores.

    Returns:
        `[rows, heads, tokens, head_dim]`.
    """
    if _has_fast_products(query):
        return by_products(query, keys, values, scaling)
    return nn.functional.scaled_dot_product_attention(
        query, keys, values, is_causal=True, scale=scaling, enable_gqa=query.shape[1] != keys.shape[1]
    )


def _has_fast_products(query: Tensor) -> bool:
    if torch.compiler.is_compiling():  # the compiler writes kernels of its own for shapes that it does not know
        return False
    right = query.dtype == torch.bfloat16 and query.device.type == "cpu" and not torch.is_grad_enabled()
    return right and query.shape[2] >= _FEWEST_TOKENS and fast_on_cpu(torch.bfloat16)


def by_products(query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
    """The attention of `causal_attention`, with the same arguments, a block of rows and queries at a time.

    Scores have the precision of float32: products of 16-bit matrices are rounded to 16 bits, so a second product
    computes what the first was rounded by.
    """
    rows, heads, tokens, dim = query.shape
    together = max(1, _SCORES // (heads * min(_QUERIES, tokens) * tokens))
    attended = query.new_empty(rows, tokens, heads, dim).transpose(1, 2)
    for start in range(0, tokens, _QUERIES):
        end = min(start + _QUERIES, tokens)
        future = query.new_full((end - start, end), -torch.inf, dtype=torch.float32).triu_(start + 1)
        for some, its_keys, its_values, target in zip(
            *(each.split(together) for each in (query, keys[:, :, :end], values[:, :, :end], attended)), strict=True
        ):
            grouped = group_queries(some[:, :, start:end], keys.shape[1]).flatten(0, 1)
            transposed = its_keys.flatten(0, 1).transpose(1, 2)
            rounded = torch.bmm(grouped, transposed)
            rest = torch.baddbmm(rounded, grouped, transposed, beta=-1)
            scores = rest.float().add_(rounded).mul_(scaling)
            scores = scores.view(-1, end - start, end).add_(future)
            weights = scores.softmax(-1).to(query.dtype).view(len(grouped), -1, end)
            target[:, :, start:end] = torch.bmm(weights, its_values.flatten(0, 1)).view(-1, heads, end - start, dim)
    return attended
