"""Keys and values of a running batch, in slots that are allocated ahead.

transformers' `DynamicCache` copies the whole cache for every token and again for every row that leaves. Here a new
token is written in place, and a row that leaves costs one move of the last row into its place.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class SlotLayer(CacheLayerMixin):
    """Keys and values `[rows, heads, slots, head_dim]` of one layer.

    Args:
        room: slots that are allocated beyond those in use, whenever the buffers must grow.
    """

    key_slots: Tensor
    value_slots: Tensor
    is_sliding = False  # every slot is kept; models with a sliding window mask what lies outside it

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.rows = 0
        self.slots = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate buffers for the prefix `[rows, heads, tokens, head_dim]` and `room` slots after it."""
        self.rows = key_states.shape[0]
        slots = key_states.shape[2] + self.room + 1
        self.key_slots = key_states.new_empty((*key_states.shape[:2], slots, key_states.shape[3]))
        self.value_slots = value_states.new_empty((*value_states.shape[:2], slots, value_states.shape[3]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new tokens `[rows, heads, tokens, head_dim]` into the next slots; return all slots in use."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self.slots, self.slots + key_states.shape[2]
        self._make_room(key_states.shape[2])
        self.key_slots[: self.rows, :, start:end] = key_states
        self.value_slots[: self.rows, :, start:end] = value_states
        self.slots = end
        return self.key_slots[: self.rows, :, :end], self.value_slots[: self.rows, :, :end]

    def take(self, tokens: int) -> None:
        """Use `tokens` more slots, which the caller writes."""
        self._make_room(tokens)
        self.slots += tokens

    def holds(self, tokens: int) -> bool:
        """Whether `tokens` more fit without growing the buffers."""
        return self.slots + tokens < self.key_slots.shape[2]  # one stays free: compiled blocks are traced that way

    def _make_room(self, tokens: int) -> None:
        if not self.holds(tokens):
            slots = self.slots + tokens + self.room + 1
            self.key_slots, self.value_slots = self._grown(self.key_slots, slots), self._grown(self.value_slots, slots)

    def _grown(self, old: Tensor, slots: int) -> Tensor:
        new = old.new_empty((self.rows, old.shape[1], slots, old.shape[3]))
        new[:, :, : self.slots] = old[: self.rows, :, : self.slots]
        return new

    def repeat_rows(self, times: int) -> None:
        """Let every row be followed by copies of itself, `times` rows in all."""
        self.key_slots = self.key_slots[: self.rows].repeat_interleave(times, 0)
        self.value_slots = self.value_slots[: self.rows].repeat_interleave(times, 0)
        self.rows *= times

    def keep_rows(self, order: list[int]) -> None:
        """Keep rows as `without` orders them: a row moves into the place of one that has left, or stays."""
        for target, source in enumerate(order):
            if target != source:
                self.key_slots[target, :, : self.slots] = self.key_slots[source, :, : self.slots]
                self.value_slots[target, :, : self.slots] = self.value_slots[source, :, : self.slots]
        self.rows = len(order)

    def keep_slots(self, start: int, chosen: Tensor) -> None:
        """Keep of the slots from `start` on only `chosen` `[rows, kept]` (counted from `start`), in that order."""
        end = start + chosen.shape[1]
        for buffer in (self.key_slots, self.value_slots):
            index = chosen[:, None, :, None].expand(-1, buffer.shape[1], -1, buffer.shape[3])
            buffer[: self.rows, :, start:end] = buffer[: self.rows, :, start : self.slots].gather(2, index)
        self.slots = end

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that the next `query_length` tokens see."""
        return self.slots + query_length, 0

    def get_seq_length(self) -> int:
        """Slots in use."""
        return self.slots

    def get_max_length(self) -> int:
        """-1: no limit."""
        return -1


class SlotCache(Cache):
    """A `SlotLayer` for each of the `layers` layers of the model; see there for `room`."""

    def __init__(self, layers: int, room: int) -> None:
        self.slot_layers = [SlotLayer(room) for _ in range(layers)]
        super().__init__(layers=list(self.slot_layers))

    @property
    def slots(self) -> int:
        """Slots in use."""
        return self.slot_layers[0].slots

    @property
    def nbytes(self) -> int:
        """Allocated memory, in bytes."""
        return sum(layer.key_slots.nbytes + layer.value_slots.nbytes for layer in self.slot_layers)

    def holds(self, tokens: int) -> bool:
        """See `SlotLayer.holds`."""
        return self.slot_layers[0].holds(tokens)

    def take_slots(self, tokens: int) -> Tensor:
        """Use `tokens` more slots of each row, which the caller writes: their numbers `[rows, tokens]`."""
        start, first = self.slots, self.slot_layers[0]
        for layer in self.slot_layers:
            layer.take(tokens)
        return torch.arange(start, start + tokens, device=first.key_slots.device).repeat(first.rows, 1)

    def repeat_rows(self, times: int) -> None:
        """See `SlotLayer.repeat_rows`."""
        for layer in self.slot_layers:
            layer.repeat_rows(times)

    def keep_rows(self, order: list[int]) -> None:
        """See `SlotLayer.keep_rows`."""
        for layer in self.slot_layers:
            layer.keep_rows(order)

    def keep_slots(self, start: int, chosen: Tensor) -> None:
        """See `SlotLayer.keep_slots`."""
        for layer in self.slot_layers:
            layer.keep_slots(start, chosen)


def without(rows: int, finished: list[int]) -> list[int]:
    """Order of the rows after `finished` (ascending) have left: the last live rows move into the holes.

    >>> without(6, [1, 4])
    [0, 5, 2, 3]
    """
    order = list(range(rows))
    live = rows - len(finished)
    gone = set(finished)
    movers = [row for row in range(live, rows) if row not in gone]
    for hole, mover in zip((row for row in finished if row < live), movers, strict=True):
        order[hole] = mover
    return order[:live]
