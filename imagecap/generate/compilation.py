"""Decoding with the blocks of both models compiled ahead of time.

A block of a small model costs more in calls than in arithmetic, on a CPU as on a GPU; compiled it is one call. Rows,
tokens and slots are left open. Of the language model those blocks are compiled that `token_step` writes out
(`is_plain`); of the encoder all that run.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from imagecap.generate import token_step
from imagecap.generate.token_step import (
    end_of_prefix,
    finished,
    grouped,
    norm,
    projections,
    through_prefix,
    turns,
    ungrouped,
)
from imagecap.model.ahead_of_time import CompiledBlock, compile_block, compile_distinct

if TYPE_CHECKING:
    pass

# Sizes to trace with: see `ahead_of_time.compile_block`.
_ROWS, _TOKENS, _SLOTS, _ROOM = 24, 5, 61, 96


def _read_tokens(
    block: Any, hidden: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, slots: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """A block over a few tokens: its result. Their keys and values are written into the buffers.

    Args:
        block: of the language model.
        hidden: `[rows, tokens, hidden]`.
        cos: see `turns`.
        sin: likewise.
        mask: `[rows, 1, tokens, slots in use]`, added to the scores.
        slots: `[rows, tokens]`, where the tokens' keys and values go.
        keys: buffer `[rows or more, heads, more slots than are in use, head_dim]`.
        values: likewise.
    """
    rows, tokens, _ = hidden.shape
    query, key, value = projections(block, hidden, cos, sin)
    index = torch.arange(rows, device=hidden.device)[:, None]
    keys[index, :, slots] = key
    values[index, :, slots] = value
    used = mask.shape[3]
    scores = grouped(query, keys.shape[1]) @ keys[:rows, :, :used].transpose(2, 3)
    scores = scores * block.self_attn.scaling + mask.repeat(1, 1, scores.shape[2] // tokens, 1)
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)
    return finished(block, hidden, ungrouped(weights @ values[:rows, :, :used], tokens).flatten(2))


class CompiledDecoder:
    """What `token_step` does, with compiled blocks.

    Args:
        decoder: the language model without its head; `is_plain`.

    Raises:
        ImageCapError: a block cannot be compiled here.
    """

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self._weights = [list(block.parameters()) for block in decoder.layers]
        self._runs: list[tuple[CompiledBlock, CompiledBlock, CompiledBlock]] = compile_distinct(
            decoder.layers, self._compile
        )
        self._cos, self._sin = torch.empty(0), torch.empty(0)

    def _compile(self, block: Any) -> tuple[CompiledBlock, CompiledBlock, CompiledBlock]:
        config, like = self._decoder.config, self._decoder.norm.weight
        hidden, dim, key_heads = like.shape[0], block.self_attn.head_dim, config.num_key_value_heads

        def both(tokens: int) -> list[Tensor]:
            turned = [like.new_zeros(_ROWS, tokens, 1, dim) for _ in range(2)]
            return [like.new_zeros(_ROWS, tokens, hidden), *turned]

        mask, slots = like.new_zeros(_ROWS, 1, _TOKENS, _SLOTS), like.new_zeros(_ROWS, _TOKENS, dtype=torch.long)
        buffers = [like.new_zeros(_ROWS + 1, key_heads, _ROOM, dim) for _ in range(2)]
        inputs = [*both(_TOKENS), mask, slots, *buffers]
        of_tokens, of_buffers = {0: "rows", 1: "tokens"}, {0: "rows_with_room", 2: "slots_with_room"}
        open_dimensions = [*[of_tokens] * 3, {0: "rows", 2: "tokens", 3: "slots"}, of_tokens, *[of_buffers] * 2]
        return (
            compile_block(through_prefix, block, config, both(_SLOTS), [of_tokens] * 3),
            compile_block(end_of_prefix, block, config, both(_SLOTS), [of_tokens] * 3),
            compile_block(_read_tokens, block, config, inputs, open_dimensions, token_step),
        )

    def read_prefix(self, embeddings: Tensor, cache: Any) -> Tensor:
        """See `token_step.read_prefix`."""
        rows, tokens, _ = embeddings.shape
        cos, sin = self._turns(torch.arange(tokens, device=embeddings.device).expand(rows, tokens), tokens)
        hidden = embeddings
        last = cache.layers[-1]
        for runs, weights, layer in zip(self._runs, self._weights, cache.layers, strict=True):
            hidden, keys, values = runs[1 if layer is last else 0]([*weights, hidden, cos, sin])
            layer.update(keys, values)
        return norm(self._decoder.norm, hidden)[:, 0]

    def next_hidden(
        self, embeddings: Tensor, cache: Any, positions: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See `token_step.next_hidden`."""
        rows, tokens, _ = embeddings.shape
        used = cache.get_seq_length() + tokens
        slots = cache.take_slots(tokens)
        if mask is None:
            mask = embeddings.new_zeros((rows, 1, tokens, used))
        cos, sin = self._turns(slots if positions is None else positions, used)
        hidden = embeddings
        for (*_, run), weights, layer in zip(self._runs, self._weights, cache.layers, strict=True):
            hidden = run([*weights, hidden, cos, sin, mask, slots, layer.key_slots, layer.value_slots])[0]
        return norm(self._decoder.norm, hidden)

    def _turns(self, positions: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """`token_step.turns`, from a table of at least `count` positions."""
        if count > len(self._cos):
            every = torch.arange(2 * count, device=positions.device)[None]
            self._cos, self._sin = (each[0] for each in turns(self._decoder, self._decoder.norm.weight, every))
        return self._cos[positions], self._sin[positions]
