"""A decoder for Llama, Mistral, Qwen2 and Qwen3 models by the blocks of `decoder_blocks`."""

from typing import Any

import torch
from torch import Tensor

from imagecap.generate.cache import KeyValueCache
from imagecap.generate.decoder_blocks import (
    attend,
    output_and_mlp,
    prefill_block,
    prefill_last_block,
    project_qkv,
    rms_norm,
    rotary_embedding,
)
from imagecap.generate.stock_decoder import GROUPED_SDPA
from imagecap.model.language_model.utils import attention_window

# By name: importing a class would load the code of its family, which this checkpoint may not need.
_FAMILIES = {"llama": "LlamaModel", "mistral": "MistralModel", "qwen2": "Qwen2Model", "qwen3": "Qwen3Model"}


class WrittenOutDecoder:
    """Implements `decoders.Decoder` with the fewest operations that give the results of the stock model.

    Args:
        language_model: the language model without its head, which `supports` must accept.
    """

    def __init__(self, language_model: Any) -> None:
        self._language_model = language_model

    @staticmethod
    def supports(language_model: Any) -> bool:
        """Whether this is a stock model of one of the four families, with sdpa attention and no sliding window."""
        config, kind = language_model.config, type(language_model)
        module = f"transformers.models.{config.model_type}.modeling_{config.model_type}"
        return (
            (kind.__module__, kind.__name__) == (module, _FAMILIES.get(config.model_type))
            and config._attn_implementation in ("sdpa", GROUPED_SDPA)
            and attention_window(config) is None
        )

    def prefill(self, embeddings: Tensor, cache: KeyValueCache) -> Tensor:
        """See `decoders.Decoder.prefill`."""
        tokens = embeddings.shape[1]
        positions = torch.arange(tokens, device=embeddings.device)[None]
        cos, sin = rotary_embedding(self._language_model, embeddings, positions)
        hidden = embeddings
        last = cache.kv_layers[-1]
        for block, layer in zip(self._language_model.layers, cache.kv_layers, strict=True):
            run = prefill_last_block if layer is last else prefill_block
            hidden, keys, values = run(block, hidden, cos, sin)
            layer.update(keys, values)
        cache.advance(tokens)
        return rms_norm(self._language_model.norm, hidden)[:, 0]

    def step(
        self, embeddings: Tensor, cache: KeyValueCache, positions: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See `decoders.Decoder.step`."""
        config = self._language_model.config
        if positions is None:
            positions = torch.full((1, 1), cache.slots, device=embeddings.device)
        cos, sin = rotary_embedding(self._language_model, embeddings, positions)
        if mask is not None:
            mask = mask.repeat(1, 1, config.num_attention_heads // config.num_key_value_heads, 1)
        hidden = embeddings
        for block, layer in zip(self._language_model.layers, cache.kv_layers, strict=True):
            query, key, value = project_qkv(block, hidden, cos, sin)
            keys, values = layer.update(key.transpose(1, 2), value.transpose(1, 2))
            hidden = output_and_mlp(block, hidden, attend(query, keys, values, mask, block.self_attn.scaling))
        cache.advance(embeddings.shape[1])
        return rms_norm(self._language_model.norm, hidden)
