"""A decoder whose transformer blocks are compiled ahead of time (torch.export and AOTInductor).

In a small model the overhead of Python and kernel launches exceeds the arithmetic of a block, on a CPU and on a GPU. A
compiled block is one call. The numbers of rows, tokens and slots are dynamic dimensions, so that one compilation serves
batches of all sizes.
"""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from imagecap.generate import decoder_blocks
from imagecap.generate.cache import KeyValueCache
from imagecap.generate.decoder_blocks import (
    output_and_mlp,
    prefill_block,
    prefill_last_block,
    project_qkv,
    rms_norm,
    rotary_embedding,
)
from imagecap.model import attention, causal_attention
from imagecap.model.ahead_of_time import CompiledBlock, compile_block, compile_distinct
from imagecap.model.attention import group_queries, ungroup_queries

# Sizes of the example inputs for tracing; see `ahead_of_time.compile_block`.
_ROWS, _TOKENS, _SLOTS, _BUFFER_SLOTS = 24, 5, 61, 96
_FEW_ROWS, _FEW_TOKENS = 4, 3
_MOST_FEW_TOKENS = 32  # in all rows, up to which `decode_few` is faster


class _CompiledFunctions(NamedTuple):
    """The compiled functions of a block: `decode_block` is there for many tokens and for few."""

    prefill: CompiledBlock
    prefill_last: CompiledBlock
    decode: CompiledBlock
    decode_few: CompiledBlock


def decode_block(
    block: Any, hidden: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, slots: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """Run a block on the next tokens of each row; their keys and values are written into the cache in place.

    Args:
        block: the transformer block of the stock model.
        hidden: hidden states, `[rows, tokens, hidden]`.
        cos: from `rotary_embedding`, `[rows, tokens, 1, head_dim]`.
        sin: from `rotary_embedding`, `[rows, tokens, 1, head_dim]`.
        mask: added to the attention scores, `[rows, 1, tokens, used_slots]`.
        slots: cache slots of the tokens, `[rows, tokens]`.
        keys: buffer of the cache, `[capacity_rows, key_heads, capacity_slots, head_dim]`; `capacity_rows` is at least
            `rows`, and `capacity_slots` is greater than `used_slots`.
        values: buffer like `keys`.

    Returns:
        Hidden states `[rows, tokens, hidden]`.
    """
    rows, tokens, _ = hidden.shape
    query, key, value = project_qkv(block, hidden, cos, sin)
    index = torch.arange(rows, device=hidden.device)[:, None]
    keys[index, :, slots] = key
    values[index, :, slots] = value
    used = mask.shape[3]
    scores = group_queries(query.transpose(1, 2), keys.shape[1]) @ keys[:rows, :, :used].transpose(2, 3)
    scores = scores * block.self_attn.scaling + mask.repeat(1, 1, query.shape[2] // keys.shape[1], 1)
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)
    attended = ungroup_queries(weights @ values[:rows, :, :used], tokens)
    return output_and_mlp(block, hidden, attended.transpose(1, 2).flatten(2))


class CompiledDecoder:
    """Implements `decoders.Decoder` with compiled blocks, for inference only: they compute no gradients.

    On a GPU, `step` and `run_blocks` must not be called by two threads at once; see `GraphedDecoder`.

    Args:
        language_model: the language model without its head, which `WrittenOutDecoder.supports` must accept.

    Raises:
        ImageCapError: a block cannot be compiled on this machine.
    """

    def __init__(self, language_model: Any) -> None:
        self._language_model = language_model
        blocks = list(language_model.layers)
        self._weights = [list(block.parameters()) for block in blocks]
        self._runs: list[_CompiledFunctions] = compile_distinct(blocks, self._compile)
        self._cos, self._sin = torch.empty(0), torch.empty(0)

    def _compile(self, block: Any) -> _CompiledFunctions:
        config, like = self._language_model.config, self._language_model.norm.weight
        hidden, dim, key_heads = like.shape[0], block.self_attn.head_dim, config.num_key_value_heads
        # dynamic dimensions of the inputs
        token_dims, buffer_dims = {0: "rows", 1: "tokens"}, {0: "buffer_rows", 2: "buffer_slots"}
        mask_dims = {0: "rows", 2: "tokens", 3: "slots"}
        step_dims = [*[token_dims] * 3, mask_dims, token_dims, *[buffer_dims] * 2]

        def hidden_cos_sin(rows: int, tokens: int) -> list[Tensor]:
            return [like.new_zeros(rows, tokens, *size) for size in ((hidden,), (1, dim), (1, dim))]

        def compile_prefill(function: Callable[..., Any], *modules: ModuleType) -> CompiledBlock:
            inputs = hidden_cos_sin(_ROWS, _SLOTS)
            return compile_block(function, block, config, inputs, [token_dims] * 3, attention, *modules)

        def compile_step(rows: int, tokens: int, *, few_rows: bool) -> CompiledBlock:
            mask, slots = like.new_zeros(rows, 1, tokens, _SLOTS), like.new_zeros(rows, tokens, dtype=torch.long)
            buffers = [like.new_zeros(rows + 1, key_heads, _BUFFER_SLOTS, dim) for _ in range(2)]
            inputs = [*hidden_cos_sin(rows, tokens), mask, slots, *buffers]
            return compile_block(
                *(decode_block, block, config, inputs, step_dims, decoder_blocks, attention),
                # The synchronization of threads queries events, which a CUDA graph cannot capture.
                single_threaded=like.device.type == "cuda",
                few_rows=few_rows,
            )

        decode = compile_step(_ROWS, _TOKENS, few_rows=False)
        return _CompiledFunctions(
            compile_prefill(prefill_block, causal_attention),
            compile_prefill(prefill_last_block),
            decode,
            compile_step(_FEW_ROWS, _FEW_TOKENS, few_rows=True) if like.device.type == "cpu" else decode,
        )

    def prefill(self, embeddings: Tensor, cache: KeyValueCache) -> Tensor:
        """See `decoders.Decoder.prefill`."""
        rows, tokens, _ = embeddings.shape
        cos, sin = self.rotary(torch.arange(tokens, device=embeddings.device).expand(rows, tokens), tokens)
        hidden = embeddings
        last = cache.kv_layers[-1]
        for compiled, weights, layer in zip(self._runs, self._weights, cache.kv_layers, strict=True):
            run = compiled.prefill_last if layer is last else compiled.prefill
            hidden, keys, values = run([*weights, hidden, cos, sin])
            layer.update(keys, values)
        cache.advance(tokens)
        return rms_norm(self._language_model.norm, hidden)[:, 0]

    def step(
        self, embeddings: Tensor, cache: KeyValueCache, positions: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See `decoders.Decoder.step`."""
        rows, tokens, _ = embeddings.shape
        used = cache.slots + tokens
        slots = cache.next_slots(tokens)
        if mask is None:
            mask = embeddings.new_zeros((rows, 1, tokens, used))
        cos, sin = self.rotary(slots if positions is None else positions, used)
        buffers = [(layer.keys, layer.values) for layer in cache.kv_layers]
        hidden = self.run_blocks(embeddings, cos, sin, mask, slots, buffers)
        cache.advance(tokens)
        return hidden

    def run_blocks(
        self,
        hidden: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor,
        slots: Tensor,
        buffers: Sequence[tuple[Tensor, Tensor]],
    ) -> Tensor:
        """Run all blocks on the next tokens, and the last norm; returns hidden states `[rows, tokens, hidden]`.

        Arguments are those of `decode_block`; `buffers` holds keys and values of each block.
        """
        few = hidden.shape[0] * hidden.shape[1] <= _MOST_FEW_TOKENS
        for compiled, weights, (keys, values) in zip(self._runs, self._weights, buffers, strict=True):
            run = compiled.decode_few if few else compiled.decode
            hidden = run([*weights, hidden, cos, sin, mask, slots, keys, values])[0]
        return rms_norm(self._language_model.norm, hidden)

    def rotary(self, positions: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Look up `rotary_embedding` of `positions` `[rows, tokens]`, all below `count`, in a table that grows."""
        if count > len(self._cos):
            all_positions = torch.arange(2 * count, device=positions.device)[None]
            like = self._language_model.norm.weight
            self._cos, self._sin = (each[0] for each in rotary_embedding(self._language_model, like, all_positions))
        return self._cos[positions], self._sin[positions]
