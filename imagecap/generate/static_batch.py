"""A batch that is decoded from beginning to end: one prefill, then one token per row or per beam at every step.

Beams share the cache of their picture. A row of the batch is a picture, and its beams are query positions of that row:

    slots        prefix of the picture │ step 0   │ step 1   │ step 2
                 p p p p p p p p p p p │ a  b  c  │ a  b  c  │ a  b  c
    beam a sees  ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ │ ■  ·  ·  │ ·  ■  ·  │ ■  ·  ·
    beam b sees  ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ │ ■  ·  ·  │ ■  ·  ·  │ ·  ■  ·
    beam c sees  ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ │ ·  ·  ■  │ ·  ·  ■  │ ·  ·  ■

A beam sees the prefix and the slots of its own ancestors. When the search reorders beams only this table changes: keys
and values are never copied from beam to beam, and the prefix is held and read once instead of once per beam.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from imagecap.generate.cache import KeyValueCache, compact_rows
from imagecap.generate.decoders import decoder_of

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

STEPS_AHEAD = 13  # slots are allocated for this many steps at a time: half-empty buffers stay small beside the prefix


class StaticBatch:
    """Rows whose prefixes have one length. They start together and leave as their captions end.

    Args:
        model: the captioner.
        beams: tokens per row and step.

    Attributes:
        cache: keys and values of the rows; it exists after `prefill`.
    """

    cache: KeyValueCache

    def __init__(self, model: "ImageCaptioner", beams: int = 1) -> None:
        self._decoder = decoder_of(model)
        self._num_layers = model.language_model.config.num_hidden_layers
        self._lm_head = model.lm_head
        self._embed_tokens = model.embed_tokens
        self._beams = beams
        self._prefix_tokens = 0
        self._steps = 0

    @property
    def rows(self) -> int:
        """Number of rows that have not left."""
        return len(self.cache.lengths)

    def prefill(self, prefix: Tensor) -> Tensor:
        """Read the prefixes `[rows, tokens, hidden]`; return the logits `[rows, vocabulary]` after each, in float32."""
        rows, self._prefix_tokens, _ = prefix.shape
        self.cache = KeyValueCache(self._num_layers, rows, STEPS_AHEAD * self._beams)
        return self._lm_head(self._decoder.prefill(prefix, self.cache)).float()

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to each row (`[rows]`); return the logits `[rows, vocabulary]` after it, in float32."""
        hidden = self._decoder.step(self._embed_tokens(tokens[:, None]), self.cache)
        return self._lm_head(hidden[:, -1]).float()

    def step_beams(self, tokens: Tensor, ancestors: Tensor) -> Tensor:
        """Append one token to every beam.

        Args:
            tokens: `[rows, beams]`.
            ancestors: `[rows, beams, depth]`, the slots after the prefix that each beam sees, its new one included.
                The new token of beam b gets the b-th slot after those in use.

        Returns:
            Logits `[rows, beams, vocabulary]` after the tokens, in float32.
        """
        rows, beams = tokens.shape
        embeddings = self._embed_tokens(tokens)
        slots = self.cache.slots + beams
        # Added to the scores, since sdpa and eager attention both take such a mask, but not both a boolean one.
        mask = embeddings.new_full((rows, beams, slots), torch.finfo(embeddings.dtype).min)
        mask[:, :, : self._prefix_tokens] = 0
        mask[:, :, self._prefix_tokens :].scatter_(2, ancestors, 0)
        positions = torch.full_like(tokens, self._prefix_tokens + self._steps)
        hidden = self._decoder.step(embeddings, self.cache, positions, mask[:, None])
        self._steps += 1
        return self._lm_head(hidden).float()

    def repeat_rows(self, times: int) -> None:
        """Let each row be followed by copies of itself, `times` rows in all."""
        self.cache.repeat_rows(times)

    def drop_rows(self, finished: list[int]) -> Tensor:
        """Remove the rows `finished` (ascending); return the order `[remaining]` of the others."""
        order = compact_rows(self.rows, finished)
        self.cache.keep_rows(order)
        return torch.tensor(order, dtype=torch.long, device=self._embed_tokens.weight.device)

    def free_slots(self, count: int) -> Tensor:
        """Numbers `[count]`, after the prefix, of the slots that the next `count` tokens get."""
        start = self.cache.slots - self._prefix_tokens
        return torch.arange(start, start + count, device=self._embed_tokens.weight.device)

    def drop_dead_slots(self, ancestors: Tensor) -> Tensor:
        """Free the slots that no beam sees any more, if the buffers would have to grow otherwise.

        Args:
            ancestors: `[rows, beams, depth]`, the slots after the prefix that each beam sees.

        Returns:
            The same ancestors under the new slot numbers.
        """
        rows, beams, _ = ancestors.shape
        if self.cache.holds(beams):
            return ancestors
        used = self.cache.slots - self._prefix_tokens
        seen = torch.zeros((rows, used), dtype=torch.bool, device=ancestors.device)
        seen.scatter_(1, ancestors.flatten(1), True)
        kept = int(seen.sum(1).max())
        # A row with fewer live slots than `kept` keeps dead ones behind them, which no beam sees.
        chosen = seen.to(torch.int8).sort(dim=1, descending=True, stable=True).indices[:, :kept]
        self.cache.keep_slots(self._prefix_tokens, chosen)
        numbers = seen.cumsum(1) - 1
        return numbers.gather(1, ancestors.flatten(1)).view_as(ancestors)
