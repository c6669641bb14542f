"""Causal attention by matrix products: against float64, and as exact as torch's kernel in bfloat16."""

import pytest
import torch
from torch import Tensor, nn

from imagecap.model.causal_attention import by_products, causal_attention

SHAPES = [(1, 4, 2, 200, 32), (3, 4, 4, 130, 16), (2, 6, 2, 128, 16), (1, 2, 1, 7, 8), (40, 4, 2, 70, 16)]


def states(shape: tuple[int, int, int, int, int], dtype: torch.dtype, scale: float = 1.0) -> tuple[Tensor, ...]:
    """Queries, keys and values of random tokens, laid out as projections of hidden states are."""
    rows, heads, key_heads, tokens, dim = shape
    generator = torch.Generator().manual_seed(0)
    return tuple(
        (scale * torch.randn(rows, tokens, count, dim, generator=generator)).to(dtype).transpose(1, 2)
        for count in (heads, key_heads, key_heads)
    )


def exact(query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
    """Attention in float64, written out."""
    groups, tokens = query.shape[1] // keys.shape[1], query.shape[2]
    keys, values = (each.double().repeat_interleave(groups, 1) for each in (keys, values))
    scores = query.double() @ keys.transpose(2, 3) * scaling
    future = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -torch.inf).softmax(-1) @ values


@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_it_equals_float64(shape: tuple[int, int, int, int, int]) -> None:
    inputs = states(shape, torch.float64)
    expected = exact(*inputs, 0.3)
    torch.testing.assert_close(causal_attention(*inputs, 0.3), expected)
    # scores are float32 in every type
    torch.testing.assert_close(by_products(*inputs, 0.3), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[3] >= 64])
@torch.inference_mode()
def test_in_bfloat16_it_is_as_exact_as_the_kernel_of_torch(shape: tuple[int, int, int, int, int], scale: float) -> None:
    """With scores that are rounded to bfloat16 the error of large ones would be three times as large."""
    query, keys, values = states(shape, torch.bfloat16, scale)
    scaling = shape[-1] ** -0.5
    expected = exact(query, keys, values, scaling)
    kernel = nn.functional.scaled_dot_product_attention(
        query, keys, values, is_causal=True, scale=scaling, enable_gqa=query.shape[1] != keys.shape[1]
    )
    error, allowed = (
        (found.double() - expected).abs().mean() for found in (by_products(query, keys, values, scaling), kernel)
    )
    assert error < 1.5 * allowed


@torch.inference_mode()
def test_it_chooses_products_where_the_processor_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Tensor] = []

    def noted(query: Tensor, *_others: object) -> Tensor:
        calls.append(query)
        return query

    monkeypatch.setattr("imagecap.model.causal_attention.by_products", noted)
    for fast, dtype, tokens, expected in (
        (True, torch.bfloat16, 100, 1),
        (False, torch.bfloat16, 100, 0),
        (True, torch.float32, 100, 0),
        (True, torch.bfloat16, 10, 0),
    ):
        monkeypatch.setattr("imagecap.model.causal_attention.fast_on_cpu", lambda _dtype, fast=fast: fast)
        calls.clear()
        causal_attention(*states((1, 2, 2, tokens, 8), dtype), 1.0)
        assert len(calls) == expected
