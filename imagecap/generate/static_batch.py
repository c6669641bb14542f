"""Static batching: all rows start with one prefill, then every step appends one token per row, or per beam of a row.

Without beam search a row of the batch is one caption. In beam search a row is one picture, and the beams of the picture
share its cache row: at each step the B beams are B query tokens of the row, and their keys go to B new slots. An
attention mask gives each beam its history. In this example of three beams, beam a was continued from beam b of step 1:

    slots    prefix of the picture │ step 0   │ step 1   │ step 2
             p p p p p p p p p p p │ a  b  c  │ a  b  c  │ a  b  c
    beam a   ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ │ ■  ·  ·  │ ·  ■  ·  │ ■  ·  ·
    beam b   ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ │ ■  ·  ·  │ ■  ·  ·  │ ·  ■  ·
    beam c   ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ │ ·  ·  ■  │ ·  ·  ■  │ ·  ·  ■

    ■: the query of step 2 attends to the slot    ·: the slot is masked

A beam attends to the prefix and to the slots of its ancestors, one per step. When the search reorders its beams, only
the mask changes. Keys and values are not copied between beams, and the prefix is stored once, not once per beam.
"""

from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from imagecap.generate.cache import KeyValueCache, compact_rows
from imagecap.generate.decoders import decoder_of

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

# Pictures of a batch that are done, by their row numbers at the start, with the token ids and scores of their captions.
Finished: TypeAlias = dict[int, list[tuple[list[int], float]]]

STEPS_AHEAD = 13  # steps for which slots are allocated at once; few, so that unused slots take little memory


class StaticBatch:
    """Rows whose prefixes have the same length. They start together; a row is removed when its caption ends.

    Args:
        model: the captioner.
        beams: number of beams per row, which is the number of tokens per row and step.

    Attributes:
        cache: keys and values of the rows; `prefill` creates it.
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
        """Number of rows that have not been removed."""
        return len(self.cache.lengths)

    def prefill(self, prefix: Tensor) -> Tensor:
        """Run the prefill.

        Args:
            prefix: embeddings of the prefixes, `[rows, tokens, hidden]`.

        Returns:
            Logits of the first token of each caption, `[rows, vocabulary]`, in float32.
        """
        rows, self._prefix_tokens, _ = prefix.shape
        self.cache = KeyValueCache(self._num_layers, rows, STEPS_AHEAD * self._beams)
        return self._lm_head(self._decoder.prefill(prefix, self.cache)).float()

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to each row.

        Args:
            tokens: token ids, `[rows]`.

        Returns:
            Logits of the next token of each row, `[rows, vocabulary]`, in float32.
        """
        hidden = self._decoder.step(self._embed_tokens(tokens[:, None]), self.cache)
        return self._lm_head(hidden[:, -1]).float()

    def step_beams(self, tokens: Tensor, ancestors: Tensor) -> Tensor:
        """Append one token to every beam.

        Args:
            tokens: token ids, `[rows, beams]`.
            ancestors: slots that each beam attends to besides the prefix, `[rows, beams, steps]`: one per step, the
                new one last. Slots are numbered from the end of the prefix. The new token of beam b is written to the
                b-th free slot (`free_slots`).

        Returns:
            Logits of the next token of each beam, `[rows, beams, vocabulary]`, in float32.
        """
        rows, beams = tokens.shape
        embeddings = self._embed_tokens(tokens)
        slots = self.cache.slots + beams
        # An additive mask: sdpa and eager attention both accept it, and eager attention accepts no boolean mask.
        mask = embeddings.new_full((rows, beams, slots), torch.finfo(embeddings.dtype).min)
        mask[:, :, : self._prefix_tokens] = 0
        mask[:, :, self._prefix_tokens :].scatter_(2, ancestors, 0)
        positions = torch.full_like(tokens, self._prefix_tokens + self._steps)
        hidden = self._decoder.step(embeddings, self.cache, positions, mask[:, None])
        self._steps += 1
        return self._lm_head(hidden).float()

    def repeat_rows(self, times: int) -> None:
        """Repeat each row `times` times; the copies of a row are adjacent, as by `torch.repeat_interleave`."""
        self.cache.repeat_rows(times)

    def drop_rows(self, finished: list[int]) -> Tensor:
        """Remove the rows `finished`, given in ascending order.

        Returns:
            For each remaining row its former number, `[remaining]`. Callers reorder their per-row tensors by it.
        """
        order = compact_rows(self.rows, finished)
        self.cache.keep_rows(order)
        return torch.tensor(order, dtype=torch.long, device=self._embed_tokens.weight.device)

    def free_slots(self, count: int) -> Tensor:
        """Numbers `[count]` of the next `count` free slots, counted from the end of the prefix."""
        start = self.cache.slots - self._prefix_tokens
        return torch.arange(start, start + count, device=self._embed_tokens.weight.device)

    def drop_dead_slots(self, ancestors: Tensor) -> Tensor:
        """Free the slots that no beam attends to any more, but only if the next step would not fit in the buffers.

        Args:
            ancestors: slots that each beam attends to besides the prefix, `[rows, beams, steps]`.

        Returns:
            The ancestors by their new slot numbers, `[rows, beams, steps]`.
        """
        rows, beams, _ = ancestors.shape
        if self.cache.holds(beams):
            return ancestors
        used = self.cache.slots - self._prefix_tokens
        live = torch.zeros((rows, used), dtype=torch.bool, device=ancestors.device)
        live.scatter_(1, ancestors.flatten(1), True)
        kept = int(live.sum(1).max())
        # All rows keep the same number of slots. Rows with fewer live slots keep some dead ones, behind the live ones.
        chosen = live.to(torch.int8).sort(dim=1, descending=True, stable=True).indices[:, :kept]
        self.cache.keep_slots(self._prefix_tokens, chosen)
        numbers = live.cumsum(1) - 1  # new number of each live slot
        return numbers.gather(1, ancestors.flatten(1)).view_as(ancestors)
