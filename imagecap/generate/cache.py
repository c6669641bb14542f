"""The KV cache of both kinds of batch: keys and values in preallocated buffers.

A slot is a position in the buffers: slot s of row r holds the keys and values of one token. transformers'
`DynamicCache` copies the whole cache at every new token, and again when rows are removed. Here a new token is written
in place, and a removed row is overwritten by the last row.
"""

import weakref
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class KeyValueLayer(CacheLayerMixin):
    """Keys and values of one layer, a `CacheLayerMixin` of transformers.

    `keys` and `values` are buffers `[capacity_rows, key_heads, capacity_slots, head_dim]`. They hold at least `rows`
    rows and more than `slots` slots. Unused slots of a row hold finite numbers, because a masked attention weight of 0
    times NaN would be NaN.
    """

    keys: Tensor
    values: Tensor
    is_sliding = False  # all tokens are kept; models with a sliding window mask those outside of it

    def __init__(self, cache: "KeyValueCache") -> None:
        super().__init__()
        # The cache holds its layers: references in both directions would keep its memory until the next garbage
        # collection, which allocations on a GPU do not cause.
        self._cache: KeyValueCache = weakref.proxy(cache)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the buffers for a prefix `[rows, key_heads, tokens, head_dim]`."""
        self.reserve(key_states.shape[0], key_states.shape[2], key_states, value_states)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the keys and values of the next tokens of each row.

        Args:
            key_states: `[rows, key_heads, tokens, head_dim]`.
            value_states: like `key_states`.
            *args: of the interface of transformers; not used.
            **kwargs: likewise.

        Returns:
            Views of keys and values `[rows, key_heads, slots + tokens, head_dim]`, `slots` being those of the longest
            row before the call. In shorter rows the last slots are unused.
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
        """Grow the buffers if they do not hold `rows` rows and more than `slots` slots.

        At least one slot stays free, because compiled blocks are traced for buffers with more slots than are in use.

        Args:
            rows: number of rows that must fit.
            slots: number of slots that must fit, besides the free one.
            keys_like: a tensor with the heads, head size, dtype and device of the keys.
            values_like: the same for the values.
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
            # If the cache is empty, the caller writes the first `slots` slots next.
            new[:, :, used if used else slots :] = 0
            setattr(self, name, new)
        self.is_initialized = True

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number and offset of the keys that the next `query_length` tokens may attend to."""
        return self._cache.slots + query_length, 0

    def get_seq_length(self) -> int:
        """Number of slots that the longest row uses."""
        return self._cache.slots

    def get_max_length(self) -> int:
        """-1: there is no limit."""
        return -1


class KeyValueCache(Cache):
    """Keys and values of all layers; row `r` uses its first `lengths[r]` slots.

    A decoder appends tokens in two steps. First it writes the keys and values of every layer: by `update` (of a layer,
    or of the cache, as stock models do), or directly into the buffers, at the slots `next_slots`. Then it calls
    `advance`, which counts these slots as used. If all rows have the same length (`uniform`), a step of one token per
    row needs no mask.

    Args:
        num_layers: layers of the language model.
        rows: number of rows of the batch; each begins with length 0.
        spare_slots: number of slots allocated beyond those needed whenever the buffers grow.

    Attributes:
        lengths: number of used slots of each row.
        slots: number of used slots of the longest row.
        uniform: whether all rows have the same length.
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
        """Row indices `[rows, 1]`, which broadcast with `next_slots`."""
        if self._row_numbers is None:
            self._row_numbers = torch.arange(len(self.lengths), device=self.kv_layers[0].keys.device)[:, None]
        return self._row_numbers

    def holds(self, tokens: int) -> bool:
        """Whether `tokens` more tokens per row fit in the buffers."""
        return self.slots + tokens < self.kv_layers[0].keys.shape[2]

    def next_slots(self, tokens: int) -> Tensor:
        """Return the slots `[rows, tokens]` for the next tokens of each row; the buffers grow if necessary."""
        if not self.holds(tokens):
            for layer in self.kv_layers:
                layer.reserve(len(self.lengths), self.slots + tokens, layer.keys, layer.values)
        if self._next_slots is None or self._next_slots.shape[1] != tokens:
            device = self.kv_layers[0].keys.device
            starts = torch.tensor(self.lengths, dtype=torch.long, device=device)[:, None]
            self._next_slots = starts + torch.arange(tokens, device=device)
        return self._next_slots

    def advance(self, tokens: int) -> None:
        """Count `tokens` more slots of each row as used, after they have been written in all layers."""
        self.lengths = [length + tokens for length in self.lengths]
        self.slots += tokens
        if self._next_slots is not None:
            self._next_slots = self._next_slots + tokens  # on the device, without a copy from the host

    def repeat_rows(self, times: int) -> None:
        """Repeat each row `times` times; the copies of a row are adjacent, as by `torch.repeat_interleave`."""
        rows = len(self.lengths)
        for layer in self.kv_layers:
            layer.keys = layer.keys[:rows].repeat_interleave(times, 0)
            layer.values = layer.values[:rows].repeat_interleave(times, 0)
        self._set_lengths([length for length in self.lengths for _ in range(times)])

    def keep_rows(self, order: list[int]) -> None:
        """Keep the rows `order`, which must come from `compact_rows`.

        A row then keeps its place or moves to that of a removed row, so that no row is overwritten before it moves.
        """
        for target, source in enumerate(order):
            if target != source:
                used = self.lengths[source]
                for layer in self.kv_layers:
                    layer.keys[target, :, :used] = layer.keys[source, :, :used]
                    layer.values[target, :, :used] = layer.values[source, :, :used]
        self._set_lengths([self.lengths[source] for source in order])

    def keep_slots(self, start: int, chosen: Tensor) -> None:
        """Remove slots: keep the first `start` ones, and of the others those in `chosen`, in that order.

        All rows must have the same length.

        Args:
            start: number of slots at the beginning that are all kept.
            chosen: numbers of the other kept slots, counted from `start`, `[rows, kept]`.
        """
        rows, kept = chosen.shape
        for layer in self.kv_layers:
            for buffer in (layer.keys, layer.values):
                index = chosen[:, None, :, None].expand(-1, buffer.shape[1], -1, buffer.shape[3])
                buffer[:rows, :, start : start + kept] = buffer[:rows, :, start : self.slots].gather(2, index)
        self._set_lengths([start + kept] * rows)

    def append_rows(self, other: "KeyValueCache") -> None:
        """Append copies of the rows of another cache, which must all have the same length."""
        start, end, used = len(self.lengths), len(self.lengths) + len(other.lengths), other.slots
        for target, added in zip(self.kv_layers, other.kv_layers, strict=True):
            target.reserve(end, max(used, self.slots), added.keys, added.values)
            for buffer, source in ((target.keys, added.keys), (target.values, added.values)):
                buffer[start:end, :, :used] = source[: end - start, :, :used]
                buffer[start:end, :, used:] = 0
        self._set_lengths(self.lengths + other.lengths)

    def level_rows(self, order: list[int]) -> None:
        """Put all rows into another order, and let each of them use the slots of the longest one.

        The slots behind a shorter row, which then count as used, hold zeros; callers hide them by a mask.

        Args:
            order: for each row its former number.
        """
        for layer in self.kv_layers:
            for buffer in (layer.keys, layer.values):
                buffer[: len(order)] = buffer[order]
        self._set_lengths([self.slots] * len(order))

    def _set_lengths(self, lengths: list[int]) -> None:
        self.lengths = lengths
        self.slots = max(lengths, default=0)
        self.uniform = len(set(lengths)) <= 1
        self._next_slots = None
        self._row_numbers = None


def compact_rows(rows: int, finished: list[int]) -> list[int]:
    """Order of the rows after some are removed: the last remaining rows move into the gaps, the others stay in place.

    Args:
        rows: number of rows before.
        finished: numbers of the removed rows, ascending.

    Returns:
        For each remaining row its former number.

    >>> compact_rows(6, [1, 4])
    [0, 5, 2, 3]
    """
    order = list(range(rows))
    remaining = rows - len(finished)
    removed = set(finished)
    moving = [row for row in range(remaining, rows) if row not in removed]
    for gap, row in zip((row for row in finished if row < remaining), moving, strict=True):
        order[gap] = row
    return order[:remaining]
