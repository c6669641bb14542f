"""Continuous batching: rows join and leave the batch between two tokens (Yu et al. 2022, "Orca").

Rows have different lengths. A row of length n has its keys and values in the cache slots 0 to n - 1. Its next token is
written to slot n and attends to the slots 0 to n; a mask hides the later slots. If all rows have the same length, as
those of a single request do, no mask is needed, and the computation is that of a `StaticBatch`.

    slots   0 1 2 3 4 5 6 7 8 9
    row a   p p p p p a a a ·        joined first: three tokens generated
    row b   p p p p p b ·            joined two steps later
    row c   p p p p p p p c ·        joined with row b, a longer prompt

    p: prefix (prompt and image tokens)    a, b, c: generated tokens    ·: slot of the next token
"""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from imagecap.config import GenerateSettings
from imagecap.generate.cache import KeyValueCache, compact_rows
from imagecap.generate.decoders import decoder_of
from imagecap.generate.prompts import Prefixes, TokenizedPrompt, end_token_ids
from imagecap.generate.rules import Rules, rules_of, without_choice
from imagecap.generate.sampling import row_uniforms, sample
from imagecap.generate.static_batch import StaticBatch, rows_by_length
from imagecap.model.tiles.tiled import Pixels, together

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

_SPARE_SLOTS = 32  # slots allocated beyond those needed when the cache grows


@dataclass
class RunningCaption:
    """A row of a `ContinuousBatch`: one caption that is being generated.

    Attributes:
        settings: decoding settings, which `can_join` accepts.
        rules: logits processors of this row.
        uniforms: one random number in [0, 1) per token, `[max_length]`, for sampling; None: greedy decoding.
        key: any object by which the caller identifies the row; it is not read here.
        tokens: ids of the tokens generated so far.
        log_probability: sum of their log-probabilities before logits processors; NaN if no token could be chosen.
    """

    settings: GenerateSettings
    rules: Rules
    uniforms: Tensor | None = None
    key: Any = None
    tokens: list[int] = field(default_factory=list)
    log_probability: float = 0.0

    @property
    def score(self) -> float:
        """Mean log-probability of the tokens."""
        return self.log_probability / max(len(self.tokens), 1)


def can_join(settings: GenerateSettings) -> bool:
    """Whether captions with these settings can join a `ContinuousBatch`: one per picture, greedy or sampled."""
    return settings.num_beams == 1 and settings.num_captions == 1


def start_caption(
    model: "ImageCaptioner",
    prompt: TokenizedPrompt,
    settings: GenerateSettings,
    prefix_ids: Tensor,
    pixel_values: Pixels,
    key: Any = None,
) -> RunningCaption:
    """Make the row of a picture, which `ContinuousBatch.admit` then takes.

    Args:
        model: the captioner.
        prompt: the prompt of the picture.
        settings: decoding settings, which `can_join` accepts.
        prefix_ids: token ids of the prefix, `[tokens]`.
        pixel_values: the resized picture, `[3, height, width]`, or its tiles; with prompt and seed it determines
            the random numbers.
        key: any object by which the caller identifies the row.
    """
    uniforms = None
    if settings.temperature > 0:
        uniforms = row_uniforms(settings.sample_seed, together([pixel_values]), [prompt.text], settings.max_length)[0]
        uniforms = uniforms.to(prefix_ids.device)
    return RunningCaption(settings, rules_of(model, settings, prefix_ids[None]), uniforms, key)


class ContinuousBatch:
    """The running batch: rows that join at any step and are decoded together.

    It is not thread-safe. Its methods must be called inside `torch.inference_mode`.

    Attributes:
        rows: the captions that are being generated.
        logits: logits of the next token of each row, `[rows, vocabulary]`, in float32.
    """

    def __init__(self, model: "ImageCaptioner") -> None:
        self._model = model
        self._decoder = decoder_of(model)
        self._end_ids = torch.tensor(end_token_ids(model), device=model.device)
        self._cache = KeyValueCache(model.language_model.config.num_hidden_layers, 0, _SPARE_SLOTS)
        self.logits = torch.empty(0)
        self.rows: list[RunningCaption] = []

    def admit(self, prefix: Prefixes, rows: list[RunningCaption]) -> None:
        """Run the prefill of new rows and append them to the batch.

        Args:
            prefix: embeddings of their prefixes.
            rows: the new rows, in the same order.

        Raises:
            Exception: the prefill failed; the batch is unchanged.
        """
        joining = []
        for places, same in rows_by_length(prefix):
            batch = StaticBatch(self._model)
            joining.append((places, batch, batch.prefill(same)))
        for places, batch, logits in joining:
            self._cache.append_rows(batch.cache)
            self.logits = torch.cat((self.logits, logits)) if self.rows else logits
            self.rows += [rows[place] for place in places]

    def step(self) -> list[RunningCaption]:
        """Generate one token per row.

        Returns:
            The rows that ended with this token, or for which no token could be chosen; they are no longer in the batch.
        """
        chosen = self._choose()
        ended = torch.isin(chosen, self._end_ids)
        tokens, ends = torch.stack((chosen, ended.long())).tolist()  # both in one copy to the host
        finished: list[int] = []
        for place, (row, token, end) in enumerate(zip(self.rows, tokens, ends, strict=True)):
            row.tokens.append(token)
            if end or len(row.tokens) == row.settings.max_length or not math.isfinite(row.log_probability):
                finished.append(place)
        leaving = [self.rows[place] for place in finished]
        if finished:
            chosen = chosen[self._keep_without(finished)]
        if self.rows:
            self.logits = self._next_logits(chosen)
        return leaving

    def remove(self, places: list[int]) -> None:
        """Remove the rows of these numbers, ascending; the others go on as if they had not been there."""
        if places:
            self.logits = self.logits[self._keep_without(places)]

    def _keep_without(self, places: list[int]) -> Tensor:
        """Remove rows from cache and list; returns the former numbers of the others, `[remaining]`."""
        order = compact_rows(len(self.rows), places)
        self._cache.keep_rows(order)
        self.rows = [self.rows[place] for place in order]
        return torch.tensor(order, dtype=torch.long, device=self.logits.device)

    def _choose(self) -> Tensor:
        """Choose the next token of each row, `[rows]`, and add its log-probability to that of the row."""
        logits = self.logits
        allowed = logits.index_fill(-1, self.rows[0].rules.suppressed_ids, -torch.inf)  # the same for all rows
        chosen = allowed.argmax(-1)
        failed: list[tuple[int, Tensor]] = []
        for place, row in enumerate(self.rows):
            scores, own_rules = allowed[place : place + 1], row.rules.more_than_suppressed(len(row.tokens))
            if own_rules:
                generated = torch.tensor([row.tokens], dtype=torch.long, device=logits.device)
                scores = row.rules.apply(scores, generated)
                failed.append((place, without_choice(scores)[0]))
            if row.uniforms is not None:
                chosen[place] = sample(scores, row.uniforms[len(row.tokens)][None])[0]
            elif own_rules:
                chosen[place] = scores.argmax(-1)[0]
        log_probabilities = logits.log_softmax(-1).gather(1, chosen[:, None])[:, 0]
        for place, without in failed:
            log_probabilities[place].masked_fill_(without, torch.nan)
        for row, log_probability in zip(self.rows, log_probabilities.tolist(), strict=True):
            row.log_probability += log_probability
        return chosen

    def _next_logits(self, tokens: Tensor) -> Tensor:
        """Append one token to each row, `[rows]`; returns the logits of the next one, `[rows, vocabulary]`."""
        cache = self._cache
        embeddings = self._model.embed_tokens(tokens[:, None])
        if cache.uniform:
            hidden = self._decoder.step(embeddings, cache)
        else:
            positions = cache.next_slots(1)
            later = torch.arange(cache.slots + 1, device=tokens.device) > positions  # [rows, slots]
            mask = embeddings.new_zeros(later.shape).masked_fill(later, torch.finfo(embeddings.dtype).min)
            hidden = self._decoder.step(embeddings, cache, positions, mask[:, None, None])
        return self._model.lm_head(hidden[:, -1]).float()
