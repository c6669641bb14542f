"""Static batching: all rows start together, then every step appends one token per row, or per beam of a row.

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

Prefixes of different lengths, those of pictures cut into tiles, are read length by length. Behind the shorter ones
slots stay unused, which a mask hides, so that the captions of all rows begin in the same slot.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from imagecap.generate.cache import KeyValueCache, compact_rows
from imagecap.generate.decoders import decoder_of
from imagecap.generate.prompts import Prefixes

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

# Pictures of a batch that are done, by their row numbers at the start, with the token ids and scores of their captions.
Finished: TypeAlias = dict[int, list[tuple[list[int], float]]]

STEPS_AHEAD = 13  # steps for which slots are allocated at once; few, so that unused slots take little memory


class StaticBatch:
    """Rows that start together; a row is removed when its caption ends.

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
        self._prefix_tokens = 0  # of the longest row
        self._lengths: Tensor | None = None  # [rows] tokens of each prefix, where they are not all the same
        self._steps = 0

    @property
    def rows(self) -> int:
        """Number of rows that have not been removed."""
        return len(self.cache.lengths)

    def prefill(self, prefix: Prefixes) -> Tensor:
        """Run the prefill.

        Args:
            prefix: embeddings of the prefixes.

        Returns:
            Logits of the first token of each caption, `[rows, vocabulary]`, in float32.
        """
        groups = rows_by_length(prefix)
        spare = STEPS_AHEAD * self._beams
        self._prefix_tokens = max(same.shape[1] for _, same in groups)
        if len(groups) == 1:
            ((rows, same),) = groups
            self.cache = KeyValueCache(self._num_layers, len(rows), spare)
            return self._lm_head(self._decoder.prefill(same, self.cache)).float()
        self.cache = KeyValueCache(self._num_layers, 0, spare)
        hidden = []
        for rows, same in groups:
            part = KeyValueCache(self._num_layers, len(rows), 0)
            hidden.append(self._decoder.prefill(same, part))
            self.cache.append_rows(part)
        order = torch.tensor([row for rows, _ in groups for row in rows]).argsort().tolist()
        self._lengths = torch.tensor([len(each) for each in prefix], device=hidden[0].device)
        self.cache.level_rows(order)
        return self._lm_head(torch.cat(hidden)[order]).float()

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to each row.

        Args:
            tokens: token ids, `[rows]`.

        Returns:
            Logits of the next token of each row, `[rows, vocabulary]`, in float32.
        """
        embeddings = self._embed_tokens(tokens[:, None])
        if self._lengths is None:
            hidden = self._decoder.step(embeddings, self.cache)
        else:
            mask = self._mask(embeddings.new_zeros(self.rows, 1, self.cache.slots + 1))
            hidden = self._decoder.step(embeddings, self.cache, self._lengths[:, None] + self._steps, mask)
        self._steps += 1
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
        if self._lengths is not None:
            positions += self._lengths[:, None] - self._prefix_tokens
        hidden = self._decoder.step(embeddings, self.cache, positions, self._mask(mask))
        self._steps += 1
        return self._lm_head(hidden).float()

    def _mask(self, mask: Tensor) -> Tensor:
        """A mask `[rows, tokens, slots]` as decoders take it, which also hides unused slots of shorter prefixes."""
        if self._lengths is not None:
            unused = torch.arange(self._prefix_tokens, device=mask.device) >= self._lengths[:, None]
            mask[:, :, : self._prefix_tokens].masked_fill_(unused[:, None], torch.finfo(mask.dtype).min)
        return mask[:, None]

    def repeat_rows(self, times: int) -> None:
        """Repeat each row `times` times; the copies of a row are adjacent, as by `torch.repeat_interleave`."""
        self.cache.repeat_rows(times)
        if self._lengths is not None:
            self._lengths = self._lengths.repeat_interleave(times, 0)

    def drop_rows(self, finished: list[int]) -> Tensor:
        """Remove the rows `finished`, given in ascending order.

        Returns:
            For each remaining row its former number, `[remaining]`. Callers reorder their per-row tensors by it.
        """
        order = compact_rows(self.rows, finished)
        self.cache.keep_rows(order)
        kept = torch.tensor(order, dtype=torch.long, device=self._embed_tokens.weight.device)
        if self._lengths is not None:
            self._lengths = self._lengths[kept]
        return kept

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


def rows_by_length(prefix: Prefixes) -> list[tuple[Sequence[int], Tensor]]:
    """Prefixes of equal length together, longest first: the numbers of the rows, and `[rows, tokens, hidden]`."""
    if isinstance(prefix, Tensor):
        return [(range(len(prefix)), prefix)]
    groups: dict[int, list[int]] = {}
    for row, each in enumerate(prefix):
        groups.setdefault(len(each), []).append(row)
    return [(groups[length], torch.stack([prefix[row] for row in groups[length]])) for length in sorted(groups)[::-1]]
