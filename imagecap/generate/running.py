"""A batch that never stops: rows of any age and prompt length, which join and leave between two tokens.

Continuous batching (Yu et al. 2022, "Orca"). Every row has a length of its own; its next token goes to the slot of that
number, and it sees the slots before. As long as all rows have one length, which is how a single request runs, no mask
is needed and the computation is that of `Engine`.

    slots   0 1 2 3 4 5 6 7 8 9
    row a   p p p p p a a a ·        joined first: three tokens said
    row b   p p p p p b ·            joined two steps later
    row c   p p p p p p p c ·        a longer prompt
"""

import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from imagecap.config import GenerateSettings
from imagecap.generate.attention import NAME
from imagecap.generate.cache import SlotCache
from imagecap.generate.captioner import end_token_ids
from imagecap.generate.engine import Engine
from imagecap.generate.rules import Rules
from imagecap.generate.sampling import draw
from imagecap.generate.token_step import has_no_window, next_hidden

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

_SLOTS_AHEAD = 32


class _RaggedLayer(CacheLayerMixin):
    """Keys and values `[rows, heads, slots, head_dim]` of one layer; row r uses its first `lengths[r]` slots."""

    key_slots: Tensor
    value_slots: Tensor
    is_sliding = False
    is_initialized = True

    def __init__(self, owner: "_RaggedCache") -> None:
        self.owner = owner

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: `_RaggedCache.admit` allocates."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write one token `[rows, heads, 1, head_dim]` behind each row; return all slots that any row uses."""
        rows, end = key_states.shape[0], self.owner.longest + 1
        if self.owner.uniform:
            self.key_slots[:rows, :, end - 1] = key_states[:, :, 0]
            self.value_slots[:rows, :, end - 1] = value_states[:, :, 0]
        else:
            self.key_slots[self.owner.index, :, self.owner.lengths] = key_states[:, :, 0]
            self.value_slots[self.owner.index, :, self.owner.lengths] = value_states[:, :, 0]
        return self.key_slots[:rows, :, :end], self.value_slots[:rows, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that the next token sees."""
        return self.owner.longest + query_length, 0

    def get_seq_length(self) -> int:
        """Slots that the longest row uses."""
        return self.owner.longest

    def get_max_length(self) -> int:
        """-1: no limit."""
        return -1


class _RaggedCache(Cache):
    def __init__(self, layers: int, device: torch.device) -> None:
        self.ragged = [_RaggedLayer(self) for _ in range(layers)]
        super().__init__(layers=list(self.ragged))
        self.lengths = torch.empty(0, dtype=torch.long, device=device)
        self.index = torch.empty(0, dtype=torch.long, device=device)
        self.ages: list[int] = []  # the same lengths, where no wait for the device is needed
        self.capacity = (0, 0)  # rows and slots of the buffers

    @property
    def longest(self) -> int:
        return max(self.ages, default=0)

    @property
    def uniform(self) -> bool:
        return len(set(self.ages)) <= 1

    def admit(self, prefilled: SlotCache, rows: int) -> None:
        """Take over the rows of a prefilled cache behind those that are here."""
        start, tokens = len(self.ages), prefilled.slots
        self._make_room(start + rows, max(tokens, self.longest), prefilled)
        for mine, theirs in zip(self.ragged, prefilled.slot_layers, strict=True):
            mine.key_slots[start : start + rows, :, :tokens] = theirs.key_slots[:rows, :, :tokens]
            mine.value_slots[start : start + rows, :, :tokens] = theirs.value_slots[:rows, :, :tokens]
        self._set(self.ages + [tokens] * rows)

    def room_for_a_token(self) -> None:
        """See that the next token of the longest row fits, and one more."""
        if self.longest + 2 > self.capacity[1]:
            self._make_room(len(self.ages), self.longest + 2, None)

    def take_slots(self, tokens: int) -> Tensor:
        """Numbers `[rows, 1]` of the slots of the rows' next tokens, which the caller writes."""
        return self.lengths[:, None]

    def grew(self) -> None:
        """Every row has one token more."""
        self.ages = [age + 1 for age in self.ages]
        self.lengths = self.lengths + 1

    def keep(self, order: list[int]) -> None:
        """Keep the rows `order`, in that order; each is copied at most once, into the place of one that left."""
        for target, source in enumerate(order):
            if target != source:
                for layer in self.ragged:
                    layer.key_slots[target, :, : self.ages[source]] = layer.key_slots[source, :, : self.ages[source]]
                    layer.value_slots[target, :, : self.ages[source]] = layer.value_slots[
                        source, :, : self.ages[source]
                    ]
        self._set([self.ages[source] for source in order])

    def _set(self, ages: list[int]) -> None:
        self.ages = ages
        self.lengths = torch.tensor(ages, dtype=torch.long, device=self.lengths.device)
        self.index = torch.arange(len(ages), device=self.lengths.device)

    def _make_room(self, rows: int, slots: int, like: SlotCache | None) -> None:
        have_rows, have_slots = self.capacity
        if rows <= have_rows and slots <= have_slots:
            return
        new_rows = have_rows if rows <= have_rows else max(rows, min(2 * have_rows, rows + 16))
        new_slots = have_slots if slots <= have_slots else slots + _SLOTS_AHEAD
        for number, layer in enumerate(self.ragged):
            other = like.slot_layers[number] if like is not None else layer
            heads, dim = other.key_slots.shape[1], other.key_slots.shape[3]
            keys = other.key_slots.new_zeros((new_rows, heads, new_slots, dim))
            values = other.value_slots.new_zeros((new_rows, heads, new_slots, other.value_slots.shape[3]))
            if self.ages:
                keys[: len(self.ages), :, :have_slots] = layer.key_slots[: len(self.ages)]
                values[: len(self.ages), :, :have_slots] = layer.value_slots[: len(self.ages)]
            layer.key_slots, layer.value_slots = keys, values
        self.capacity = (new_rows, new_slots)


@dataclass
class Row:
    """One caption on its way.

    Attributes:
        settings: how it is decoded; greedy or sampled, one caption.
        key: the caller's own, to know it again.
        rules: where its scores are changed before a token is chosen; None: plain.
        uniforms: `[max_length]` to sample by; None: greedy.
        tokens: said so far.
        log_probability: sum over them.
    """

    settings: GenerateSettings
    key: Any
    rules: Rules | None = None
    uniforms: Tensor | None = None
    tokens: list[int] = field(default_factory=list)
    log_probability: float = 0.0

    @property
    def score(self) -> float:
        """Mean log-probability of the tokens."""
        return self.log_probability / max(len(self.tokens), 1)


class RunningBatch:
    """Rows that are decoded together, whenever each of them came. For one thread, inside `torch.inference_mode`."""

    def __init__(self, model: "ImageCaptioner") -> None:
        self._model = model
        self._decoder = model.language_model
        self._end = torch.tensor(end_token_ids(model), device=model.device)
        self._cache = _RaggedCache(model.language_model.config.num_hidden_layers, model.device)
        self._logits = torch.empty(0)
        self.rows: list[Row] = []

    def admit(self, prefix: Tensor, rows: list[Row]) -> None:
        """Read the prefixes `[rows, tokens, hidden]` and let the rows join.

        Raises:
            Exception: the model failed; the rows that were here are as before.
        """
        engine = Engine(self._model)
        logits = engine.prefill(prefix)
        self._cache.admit(engine.cache, len(rows))
        self._logits = torch.cat((self._logits, logits)) if self.rows else logits
        self.rows += rows

    def step(self) -> list[Row]:
        """Choose the next token of every row; return the rows that ended with it, which leave."""
        chosen = self._choose()
        ended = torch.isin(chosen, self._end)
        tokens, ends = torch.stack((chosen, ended.long())).tolist()  # the step's one wait for the device
        finished: list[int] = []
        staying: list[int] = []
        for place, (row, token, end) in enumerate(zip(self.rows, tokens, ends, strict=True)):
            row.tokens.append(token)
            over = bool(end) or len(row.tokens) == row.settings.max_length
            (finished if over else staying).append(place)
        done = [self.rows[place] for place in finished]
        if finished:
            order = _compacted(len(self.rows), staying)
            self._cache.keep(order)
            self.rows = [self.rows[place] for place in order]
            chosen = chosen[torch.tensor(order, dtype=torch.long, device=chosen.device)]
        if self.rows:
            self._logits = self._next(chosen)
        return done

    def _choose(self) -> Tensor:
        logits = self._logits
        chosen = logits.argmax(-1)
        for place, row in enumerate(self.rows):
            if row.rules is None and row.uniforms is None:
                continue
            said = torch.tensor([row.tokens], dtype=torch.long, device=logits.device)
            scores = logits[place : place + 1]
            if row.rules is not None:
                scores = row.rules.apply(scores, said)
            if row.uniforms is None:
                chosen[place] = scores.argmax(-1)[0]
            else:
                chosen[place] = draw(scores, row.uniforms[len(row.tokens)][None])[0]
        sure = logits.log_softmax(-1).gather(1, chosen[:, None])[:, 0].tolist()
        for row, each in zip(self.rows, sure, strict=True):
            row.log_probability += each
        return chosen

    def _next(self, tokens: Tensor) -> Tensor:
        """Logits `[rows, vocabulary]` after one more token of each row."""
        cache = self._cache
        cache.room_for_a_token()
        embeddings = self._model.embed_tokens(tokens[:, None])
        compiled = self._model.compiled_decoder
        if cache.uniform:
            hidden = next_hidden(self._decoder, embeddings, cache, compiled=compiled)
        else:
            slots = torch.arange(cache.longest + 1, device=tokens.device)
            unseen = slots[None] > cache.lengths[:, None]
            mask = embeddings.new_zeros(unseen.shape).masked_fill(unseen, torch.finfo(embeddings.dtype).min)
            hidden = next_hidden(
                self._decoder, embeddings, cache, cache.lengths[:, None], mask[:, None, None], compiled
            )
        cache.grew()
        return self._model.lm_head(hidden[:, -1]).float()


def _compacted(rows: int, staying: list[int]) -> list[int]:
    """Order of the rows that stay: the last ones move into the places of those that left."""
    order = list(range(len(staying)))
    movers = [place for place in staying if place >= len(staying)]
    keep = set(staying)
    for hole in range(len(staying)):
        if hole not in keep:
            order[hole] = movers.pop()
    return order


def can_run_ragged(model: "ImageCaptioner") -> bool:
    """Whether rows of different lengths can share a batch: explicit positions, a mask of our own, no window."""
    config = model.language_model.config
    return (
        "position_ids" in inspect.signature(model.language_model.forward).parameters
        and not getattr(config, "alibi", False)
        and has_no_window(config)
        and config._attn_implementation in ("sdpa", "eager", NAME)
    )
