"""The KV cache of a running batch: keys and values in slots that are allocated ahead.

transformers' `DynamicCache` copies the whole cache for every token and again for every row that leaves. Here a new
token is written in place, and a row that leaves costs one move of the last row into its place.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class KeyValueLayer(CacheLayerMixin):
    """Keys and values of one layer, in two buffers `[rows or more, key_heads, more slots than are in use, head_dim]`.

    Slots of a row that are not in use hold finite numbers, so that a mask can hide them.
    """

    keys: Tensor
    values: Tensor
    is_sliding = False  # every slot is kept; models with a sliding window mask what lies outside it

    def __init__(self, cache: "KeyValueCache") -> None:
        super().__init__()
        self._cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the buffers for a prefix `[rows, key_heads, tokens, head_dim]`."""
        self.reserve(key_states.shape[0], key_states.shape[2], key_states, value_states)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the keys and values `[rows, key_heads, tokens, head_dim]` of the next tokens of each row.

        Returns:
            Keys and values `[rows, key_heads, slots, head_dim]` of all slots up to the last one of the longest row.
        """
        cache = self._cache
        rows, _, tokens, _ = key_states.shape
        start, end = cache.slots, cache.slots + tokens
        self.reserve(rows, end, key_states, value_states)
        for buffer, states in ((self.keys, key_states), (self.values, value_states)):
            if cache.uniform:
                buffer[:rows, :, start:end] = states
            else:
                buffer[cache.row_numbers, :, cache.next_slots(tokens)] = states.transpose(1, 2)
        return self.keys[:rows, :, :end], self.values[:rows, :, :end]

    def reserve(self, rows: int, slots: int, keys_like: Tensor, values_like: Tensor) -> None:
        """Grow the buffers where they do not hold `rows` rows and more than `slots` slots; the arguments give shapes.

        One slot always stays free, since compiled blocks are traced with more slots than are in use.
        """
        have_rows, have_slots = (self.keys.shape[0], self.keys.shape[2]) if self.is_initialized else (0, 0)
        if rows <= have_rows and slots < have_slots:
            return
        new_rows = rows if rows <= have_rows else max(rows, min(2 * have_rows, rows + 16))
        new_slots = have_slots if slots < have_slots else slots + self._cache.spare_slots + 1
        live, used = len(self._cache.lengths), self._cache.slots
        for name, like in (("keys", keys_like), ("values", values_like)):
            new = like.new_empty((new_rows, like.shape[1], new_slots, like.shape[3]))
            if used:
                new[:live, :, :used] = getattr(self, name)[:live, :, :used]
            new[:, :, used if used else slots :] = 0  # an empty cache is filled up to `slots` at once
            setattr(self, name, new)
        self.is_initialized = True

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that the next `query_length` tokens see."""
        return self._cache.slots + query_length, 0

    def get_seq_length(self) -> int:
        """Slots that the longest row uses."""
        return self._cache.slots

    def get_max_length(self) -> int:
        """-1: there is no limit."""
        return -1


class KeyValueCache(Cache):
    """Keys and values of all layers; row `r` uses its first `lengths[r]` slots.

    A decoder appends tokens in two steps. First every layer's keys and values are written, either by `update` (of a
    layer, or of the cache as stock models call it) or straight into the layers' buffers at `next_slots`. Then `advance`
    counts them. As long as all rows have one length (`uniform`), several tokens may be written per row, and no mask is
    needed for one.

    Args:
        num_layers: layers of the language model.
        rows: rows of the batch, which are empty.
        spare_slots: slots that are allocated beyond those needed whenever the buffers grow.

    Attributes:
        lengths: slots in use, per row.
        slots: slots that the longest row uses.
        uniform: whether all rows have one length.
    """

    lengths: list[int]
    slots: int
    uniform: bool
    _next_slots: Tensor | None
    _row_numbers: Tensor | None

    def __init__(self, num_layers: int, rows: int, spare_slots: int) -> None:
        self.kv_layers = [KeyValueLayer(self) for _ in range(num_layers)]
        super().__init__(layers=list(self.kv_layers))
        self.spare_slots = spare_slots
        self._set_lengths([0] * rows)

    @property
    def nbytes(self) -> int:
        """Allocated memory, in bytes."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.kv_layers)

    @property
    def row_numbers(self) -> Tensor:
        """Numbers of the rows, `[rows, 1]`."""
        if self._row_numbers is None:
            self._row_numbers = torch.arange(len(self.lengths), device=self.kv_layers[0].keys.device)[:, None]
        return self._row_numbers

    def holds(self, tokens: int) -> bool:
        """Whether `tokens` more of each row fit without growing the buffers."""
        return self.slots + tokens < self.kv_layers[0].keys.shape[2]

    def next_slots(self, tokens: int) -> Tensor:
        """Return the slots `[rows, tokens]` of each row's next tokens; the buffers grow to hold them."""
        if not self.holds(tokens):
            for layer in self.kv_layers:
                layer.reserve(len(self.lengths), self.slots + tokens, layer.keys, layer.values)
        if self._next_slots is None or self._next_slots.shape[1] != tokens:
            device = self.kv_layers[0].keys.device
            starts = torch.tensor(self.lengths, dtype=torch.long, device=device)[:, None]
            self._next_slots = starts + torch.arange(tokens, device=device)
        return self._next_slots

    def advance(self, tokens: int) -> None:
        """Count `tokens` more of each row, which have been written, as in use."""
        self.lengths = [length + tokens for length in self.lengths]
        self.slots += tokens
        if self._next_slots is not None:
            self._next_slots = self._next_slots + tokens  # on the device: no transfer at every token

    def repeat_rows(self, times: int) -> None:
        """Let each row be followed by copies of itself, `times` rows in all."""
        rows = len(self.lengths)
        for layer in self.kv_layers:
            layer.keys = layer.keys[:rows].repeat_interleave(times, 0)
            layer.values = layer.values[:rows].repeat_interleave(times, 0)
        self._set_lengths([length for length in self.lengths for _ in range(times)])

    def keep_rows(self, order: list[int]) -> None:
        """Keep the rows `order`, as `compact_rows` orders them: a row stays, or moves to the place of one that left."""
        for target, source in enumerate(order):
            if target != source:
                used = self.lengths[source]
                for layer in self.kv_layers:
                    layer.keys[target, :, :used] = layer.keys[source, :, :used]
                    layer.values[target, :, :used] = layer.values[source, :, :used]
        self._set_lengths([self.lengths[source] for source in order])

    def keep_slots(self, start: int, chosen: Tensor) -> None:
        """Keep of the slots from `start` on only those in `chosen`, in that order; all rows must have one length.

        Args:
            start: number of slots that are kept in any case.
            chosen: `[rows, kept]`, counted from `start`.
        """
        rows, kept = chosen.shape
        for layer in self.kv_layers:
            for buffer in (layer.keys, layer.values):
                index = chosen[:, None, :, None].expand(-1, buffer.shape[1], -1, buffer.shape[3])
                buffer[:rows, :, start : start + kept] = buffer[:rows, :, start : self.slots].gather(2, index)
        self._set_lengths([start + kept] * rows)

    def append_rows(self, other: "KeyValueCache") -> None:
        """Copy the rows of another cache, which all have one length, behind the rows of this one."""
        start, end, used = len(self.lengths), len(self.lengths) + len(other.lengths), other.slots
        for mine, theirs in zip(self.kv_layers, other.kv_layers, strict=True):
            mine.reserve(end, max(used, self.slots), theirs.keys, theirs.values)
            for buffer, source in ((mine.keys, theirs.keys), (mine.values, theirs.values)):
                buffer[start:end, :, :used] = source[: end - start, :, :used]
                buffer[start:end, :, used:] = 0
        self._set_lengths(self.lengths + other.lengths)

    def _set_lengths(self, lengths: list[int]) -> None:
        self.lengths = lengths
        self.slots = max(lengths, default=0)
        self.uniform = len(set(lengths)) <= 1
        self._next_slots = None
        self._row_numbers = None


def compact_rows(rows: int, finished: list[int]) -> list[int]:
    """Order of the rows after `finished` (ascending) have left: the last remaining rows move into the gaps.

    >>> compact_rows(6, [1, 4])
    [0, 5, 2, 3]
    """
    order = list(range(rows))
    remaining = rows - len(finished)
    gone = set(finished)
    movers = [row for row in range(remaining, rows) if row not in gone]
    for gap, mover in zip((row for row in finished if row < remaining), movers, strict=True):
        order[gap] = mover
    return order[:remaining]
