"""A decoder for any language model: it calls the unchanged model of transformers."""

from typing import Any

from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from imagecap.generate.cache import KeyValueCache
from imagecap.model.attention import attention_kernel, group_queries, ungroup_queries

GROUPED_SDPA = "imagecap_grouped_sdpa"


class StockDecoder:
    """Implements `decoders.Decoder` by calls of the stock model.

    Where several query heads share a key head, transformers' sdpa attention copies keys and values once per query head
    if a mask is given, at every step of every layer. For a few beams that costs several times the attention itself, so
    masked steps attend by `grouped_sdpa`.

    Args:
        language_model: the language model without its head.
    """

    def __init__(self, language_model: Any) -> None:
        self._language_model = language_model

    def prefill(self, embeddings: Tensor, cache: KeyValueCache) -> Tensor:
        """See `decoders.Decoder.prefill`."""
        return self._run(embeddings, cache)[:, -1]

    def step(
        self, embeddings: Tensor, cache: KeyValueCache, positions: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See `decoders.Decoder.step`."""
        if mask is None:
            return self._run(embeddings, cache)
        with attention_kernel(self._language_model.config, GROUPED_SDPA, grouped_sdpa):
            return self._run(embeddings, cache, attention_mask=mask, position_ids=positions)

    def _run(self, embeddings: Tensor, cache: KeyValueCache, **arguments: Tensor | None) -> Tensor:
        output = self._language_model(inputs_embeds=embeddings, past_key_values=cache, use_cache=True, **arguments)
        cache.advance(embeddings.shape[1])
        hidden = output.last_hidden_state
        assert isinstance(hidden, Tensor)
        return hidden


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
    """Sdpa attention without repeated keys, in the form of transformers' `AttentionInterface`.

    Args:
        module: the attention block.
        query: `[rows, heads, tokens, head_dim]`.
        key: `[rows, key_heads, slots, head_dim]`.
        value: `[rows, key_heads, slots, head_dim]`.
        attention_mask: `[rows, 1, tokens, slots]`, added to the scores. With None or another shape the stock function
            is called.
        dropout: share of the attention weights that are dropped.
        scaling: factor of the scores.
        **kwargs: further arguments of transformers; with a soft cap or a position bias the stock function is called.

    Returns:
        `[rows, tokens, heads, head_dim]`, and None for the attention weights.
    """
    tokens, key_heads = query.shape[2], key.shape[1]
    groups = query.shape[1] // key_heads
    special = kwargs.get("softcap") is not None or kwargs.get("position_bias") is not None
    if attention_mask is None or attention_mask.shape[1] != 1 or groups == 1 or special:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    output = nn.functional.scaled_dot_product_attention(
        group_queries(query, key_heads),
        key,
        value,
        attn_mask=attention_mask.repeat(1, 1, groups, 1),
        dropout_p=dropout,
        scale=scaling,
    )
    return ungroup_queries(output, tokens).transpose(1, 2).contiguous(), None
