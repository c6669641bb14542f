"""Attention by plain products is the attention of torch."""

import pytest
import torch

from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.train.matmul_attention import MATMUL_ATTENTION, attend, matmul_attention


@pytest.mark.parametrize(
    ("heads", "key_heads", "queries", "keys"), [(4, 4, 7, 7), (4, 2, 9, 9), (6, 1, 1, 5), (2, 2, 3, 8)]
)
@pytest.mark.parametrize("masked", [True, False])
def test_equals_the_fused_kernel(heads: int, key_heads: int, queries: int, keys: int, masked: bool) -> None:
    generator = torch.Generator().manual_seed(heads * keys + masked)

    def draw(rows: int, length: int) -> torch.Tensor:
        values = torch.randn(3, rows, length, 8, generator=generator, dtype=torch.float64)
        return values.requires_grad_()

    query, key, value = draw(heads, queries), draw(key_heads, keys), draw(key_heads, keys)
    bias = None
    if masked:
        seen = torch.rand(3, 1, queries, keys, generator=generator) > 0.5
        seen[..., 0] = True
        bias = torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, -torch.inf)
    ours = attend(query, key, value, bias, 0.3)
    theirs = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=bias, scale=0.3, enable_gqa=True
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    weights = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    for mine, yours in zip(
        torch.autograd.grad((ours * weights).sum(), (query, key, value)),
        torch.autograd.grad((theirs * weights).sum(), (query, key, value)),
        strict=True,
    ):
        torch.testing.assert_close(mine, yours, rtol=1e-11, atol=1e-11)


def test_only_for_the_length_of_the_block(tiny_model: ImageCaptioner) -> None:
    parts = [tiny_model.language_model.config, tiny_model.vision_tower.config]
    with matmul_attention(tiny_model, False):
        assert [each._attn_implementation for each in parts] == ["sdpa"] * 2
    with matmul_attention(tiny_model, True):
        assert [each._attn_implementation for each in parts] == [MATMUL_ATTENTION] * 2
        with matmul_attention(tiny_model, True):
            pass
        assert [each._attn_implementation for each in parts] == [MATMUL_ATTENTION] * 2
    assert [each._attn_implementation for each in parts] == ["sdpa"] * 2
    tiny_model.llava.set_attn_implementation("eager")
    with matmul_attention(tiny_model, True):
        assert parts[0]._attn_implementation == "eager"


def test_without_a_mask_a_language_model_still_sees_no_later_token(tiny_model: ImageCaptioner) -> None:
    embeds = torch.randn(2, 9, 32)
    with torch.no_grad():
        expected = tiny_model.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        with matmul_attention(tiny_model, True):
            found = tiny_model.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_picture_is_seen_alike(tiny_model: ImageCaptioner) -> None:
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = tiny_model.encode_images(pixels)
        with matmul_attention(tiny_model, True):
            found = tiny_model.encode_images(pixels)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("value_size", "mask_heads"), [(5, 1), (8, 4)])
def test_values_of_another_size_and_masks_of_heads(
    tiny_model: ImageCaptioner, value_size: int, mask_heads: int
) -> None:
    """Multi-head latent attention (DeepSeek) has smaller values than keys; Doge has a mask for every head."""
    from transformers import AttentionInterface

    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, heads, 6, 8, generator=generator) for heads in (4, 2))
    value = torch.randn(2, 2, 6, value_size, generator=generator)
    mask = torch.randn(2, mask_heads, 6, 6, generator=generator)
    each_key, each_value = key.repeat_interleave(2, 1), value.repeat_interleave(2, 1)
    expected = torch.nn.functional.scaled_dot_product_attention(query, each_key, each_value, attn_mask=mask)
    with matmul_attention(tiny_model, True):
        kernel = AttentionInterface()[MATMUL_ATTENTION]
        found, _ = kernel(tiny_model.language_model.layers[0].self_attn, query, key, value, mask)
    torch.testing.assert_close(found, expected.transpose(1, 2), rtol=1e-5, atol=1e-5)
    assert found.is_contiguous()
