"""Prefix and step as they are written out equal the language model's own, for each kind that has them."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModel,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from imagecap.generate.cache import KeyValueCache
from imagecap.generate.decoder_blocks import rms_norm
from imagecap.generate.decoders import choose_decoder
from imagecap.generate.stock_decoder import GROUPED_SDPA, StockDecoder, grouped_sdpa
from imagecap.generate.written_out_decoder import WrittenOutDecoder
from imagecap.model.attention import attention_kernel

ROWS, PREFIX, HIDDEN = 3, 7, 24
SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": HIDDEN,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
KINDS = {
    "qwen3": Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=8),
    "qwen3, a key head for each": Qwen3Config(**SIZES, num_key_value_heads=4, head_dim=8, attention_bias=True),
    "qwen2": Qwen2Config(**SIZES, num_key_value_heads=1),
    "llama": LlamaConfig(**SIZES, num_key_value_heads=2, attention_bias=True, mlp_bias=True, hidden_act="gelu"),
    "llama, long": LlamaConfig(
        **SIZES,
        num_key_value_heads=2,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    ),
    "mistral": MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=None),
}


def random_model(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModel.from_config(config, attn_implementation="sdpa").double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.5)
    return model


def stock(model: PreTrainedModel, embeddings: Tensor, cache: KeyValueCache, **arguments: Any) -> Tensor:
    with attention_kernel(model.config, GROUPED_SDPA, grouped_sdpa):
        output = model(inputs_embeds=embeddings, past_key_values=cache, use_cache=True, **arguments)
    cache.advance(embeddings.shape[1])
    assert isinstance(output.last_hidden_state, Tensor)
    return output.last_hidden_state


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_it_equals_the_stock_step(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    model = random_model(KINDS[kind]).to(dtype)
    decoder = choose_decoder(model)
    assert isinstance(decoder, WrittenOutDecoder)
    cache, other = KeyValueCache(3, ROWS, spare_slots=4), KeyValueCache(3, ROWS, spare_slots=4)
    prefix = torch.randn(ROWS, PREFIX, HIDDEN, dtype=dtype)
    expected, found = stock(model, prefix, cache)[:, -1], decoder.prefill(prefix, other)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    for tokens in (1, 1, 5, 2, 1):  # a token a row, then beams and back
        embeddings = torch.randn(ROWS, tokens, HIDDEN, dtype=dtype)
        if tokens == 1:
            expected, found = stock(model, embeddings, cache), decoder.step(embeddings, other)
        else:
            mask = torch.zeros(ROWS, 1, tokens, cache.slots + tokens, dtype=dtype)
            mask.masked_fill_(torch.rand(mask.shape) < 0.3, torch.finfo(dtype).min)
            mask[..., -tokens:] = (1 - torch.eye(tokens, dtype=dtype)) * torch.finfo(dtype).min  # a beam sees its own
            positions = torch.randint(PREFIX, 30, (ROWS, tokens))
            expected = stock(model, embeddings, cache, attention_mask=mask, position_ids=positions)
            found = decoder.step(embeddings, other, positions, mask)
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
        for mine, theirs in zip(other.kv_layers, cache.kv_layers, strict=True):
            held, wanted = mine.keys[:, :, : other.slots], theirs.keys[:, :, : cache.slots]
            torch.testing.assert_close(held, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(vocab_size=50, n_embd=24, n_layer=3, n_head=4),
        MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=4),
        Qwen2Config(**SIZES, num_key_value_heads=2, use_sliding_window=True, max_window_layers=1, sliding_window=4),
    ],
)
@torch.inference_mode()
def test_the_others_run_as_they_are(config: PreTrainedConfig) -> None:
    model = random_model(config)
    decoder = choose_decoder(model)
    assert isinstance(decoder, StockDecoder)
    cache, other = KeyValueCache(3, ROWS, spare_slots=4), KeyValueCache(3, ROWS, spare_slots=4)
    prefix, embeddings = torch.randn(ROWS, PREFIX, HIDDEN).double(), torch.randn(ROWS, 1, HIDDEN).double()
    assert torch.equal(decoder.prefill(prefix, other), stock(model, prefix, cache)[:, -1])
    assert torch.equal(decoder.step(embeddings, other), stock(model, embeddings, cache))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_norms_in_16_bits_round_as_the_stock_module_does(dtype: torch.dtype) -> None:
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    generator = torch.Generator().manual_seed(0)
    module = Qwen3RMSNorm(144, eps=1e-6)
    module.weight.data = torch.rand(144, generator=generator) * 3
    module.to(dtype)
    hidden = (torch.randn(500, 2, 144, generator=generator) * torch.logspace(-3, 3, 500)[:, None, None]).to(dtype)
    found, expected = rms_norm(module, hidden), module(hidden)
    assert found.dtype == dtype
    # Sums in another order may turn a tie; rounding once instead of twice would change many.
    assert (found != expected).float().mean() < 1e-3
    torch.testing.assert_close(found, expected)
