"""Rules that change the model's scores before a token is chosen.

They are repetition penalties, avoided words, minimum length, suppressed tokens, the target length, temperature, top-k
and top-p. The order is that of
transformers' `generate`, and most are its logits processors, so that results are equal.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from imagecap.config import GenerateSettings
from imagecap.data.texts import count_words
from imagecap.generate.avoided_words import AvoidedTokens, avoided_tokens
from imagecap.generate.prompts import end_token_ids
from imagecap.generate.target_length import TargetLength
from imagecap.generate.token_texts import TokenTexts, token_texts
from imagecap.model.vocabulary import require_known_tokens

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

Processor = Callable[[Tensor, Tensor], Tensor]  # (token ids, scores) → scores


class Rules:
    """The rules of one batch.

    Args:
        settings: decoding settings.
        end_ids: ids of the tokens that end a caption.
        prefix_ids: ids of the prompt with its image tokens, `[rows, tokens]`. As in transformers, the rules against
            repetition count them as if they had been generated.
        suppressed: ids of tokens that no caption may hold.
        begin_suppressed: ids of tokens that no caption may begin with, unless `settings.allow_empty` is set.
        avoided: the tokens of `settings.avoid_words`.
        texts: what the tokens spell; needed for `settings.target_length`.

    Attributes:
        end_ids: `[end tokens]`, on the device of `prefix_ids`.
        suppressed_ids: `[suppressed tokens]`, likewise.
        active: whether any rule may change a score; if not, `apply` may be left out.
    """

    def __init__(
        self,
        settings: GenerateSettings,
        end_ids: Sequence[int],
        prefix_ids: Tensor,
        suppressed: Sequence[int] = (),
        begin_suppressed: Sequence[int] = (),
        avoided: AvoidedTokens | None = None,
        texts: TokenTexts | None = None,
    ) -> None:
        def on_device(ids: Sequence[int]) -> Tensor:
            return torch.tensor(ids, dtype=torch.long, device=prefix_ids.device)

        self.end_ids, self.suppressed_ids = on_device(end_ids), on_device(suppressed)
        avoided = avoided or AvoidedTokens()
        self._avoided_ids = on_device(avoided.anywhere)
        self._begin_suppressed_ids = on_device(
            [*(() if settings.allow_empty else begin_suppressed), *(() if settings.caption_start else avoided.at_start)]
        )
        self._later_suppressed = torch.cat((self.suppressed_ids, self._avoided_ids))
        self._first_suppressed = torch.cat((self._later_suppressed, self._begin_suppressed_ids))
        self._prefix_ids = prefix_ids
        self._min_length = settings.min_length
        self._target_length = None
        if settings.target_length and texts is not None:
            start = count_words(settings.caption_start)
            self._target_length = TargetLength(settings.target_length, texts, self.end_ids, start)
        self._has_start = bool(settings.caption_start)
        penalties: dict[str, Any] = {}
        if settings.repetition_penalty != 1.0:
            penalties["RepetitionPenaltyLogitsProcessor"] = settings.repetition_penalty
        if settings.no_repeat_ngram_size:
            penalties["NoRepeatNGramLogitsProcessor"] = settings.no_repeat_ngram_size
        if avoided.sequences:
            penalties["NoBadWordsLogitsProcessor"] = [list(ids) for ids in avoided.sequences]
        warpers: dict[str, Any] = {}
        if settings.temperature and settings.temperature != 1.0:
            warpers["TemperatureLogitsWarper"] = settings.temperature
        if settings.temperature and settings.top_k:
            warpers["TopKLogitsWarper"] = settings.top_k
        if settings.temperature and settings.top_p < 1.0:
            warpers["TopPLogitsWarper"] = settings.top_p
        self._penalties, self._warpers = _processors(penalties), _processors(warpers)
        self._own = bool(
            self._penalties or self._warpers or self._min_length or self._target_length or len(self._avoided_ids)
        )
        self.active = self._own or bool(len(self.suppressed_ids) + len(self._begin_suppressed_ids))

    def more_than_suppressed(self, length: int) -> bool:
        """Whether more than `suppressed_ids` applies to a caption of which `length` tokens are generated."""
        return self._own or (length == 0 and len(self._begin_suppressed_ids) > 0)

    def apply(self, scores: Tensor, generated: Tensor) -> Tensor:
        """Return the scores that the next tokens are chosen by; `scores` itself is not changed.

        Args:
            scores: `[rows, vocabulary]` or `[rows, beams, vocabulary]`, logits or log-probabilities in float32.
            generated: `[rows, tokens]` or `[rows, beams, tokens]`, the tokens generated so far.
        """
        if self._penalties:
            prefix_ids = self._prefix_ids
            if generated.dim() == 3:
                prefix_ids = prefix_ids[:, None].expand(-1, generated.shape[1], -1)
            ids, flat = torch.cat((prefix_ids, generated), dim=-1).flatten(0, -2), scores.flatten(0, -2)
            for penalty in self._penalties:
                flat = penalty(ids, flat)
            scores = flat.view_as(scores)
        if generated.shape[-1] < self._min_length:
            scores = scores.index_fill(-1, self.end_ids, -torch.inf)
        suppressed = self._first_suppressed if generated.shape[-1] == 0 else self._later_suppressed
        if len(suppressed):
            scores = scores.index_fill(-1, suppressed, -torch.inf)
        if self._target_length is not None:
            before = self._prefix_ids[:, -1:] if self._has_start else None
            if before is not None and generated.dim() == 3:
                before = before[:, None].expand(-1, generated.shape[1], -1)
            scores = self._target_length(scores, generated, before)
        for warper in self._warpers:
            scores = warper(generated, scores)
        return scores

    def keep_rows(self, order: Tensor) -> None:
        """Keep the rows `order` `[rows]`, in that order; a row may come several times."""
        self._prefix_ids = self._prefix_ids[order]


def rules_of(model: "ImageCaptioner", settings: GenerateSettings, prefix_ids: Tensor) -> Rules:
    """Make the rules of a batch, with the end tokens and suppressed tokens of the model's generation config.

    Args:
        model: the captioner.
        settings: decoding settings.
        prefix_ids: see `Rules`.

    Raises:
        ImageCapError: the generation config names a token that the model does not have.
    """
    config = model.llava.generation_config
    suppressed, begin_suppressed = config.suppress_tokens or (), config.begin_suppress_tokens or ()
    ends = end_token_ids(model)
    require_known_tokens([*ends, *suppressed, *begin_suppressed], model.lm_head.out_features, "generation_config.json")
    avoided = avoided_tokens(model, settings.avoided) if settings.avoided else None
    texts = token_texts(model) if settings.target_length else None
    return Rules(settings, ends, prefix_ids, suppressed, begin_suppressed, avoided, texts)


def _processors(chosen: Mapping[str, Any]) -> list[Processor]:
    """Make logits processors of transformers from their class names and arguments, in that order.

    Their module is loaded only if there is one.
    """
    if not chosen:
        return []
    from transformers.generation import logits_process

    return [getattr(logits_process, name)(argument) for name, argument in chosen.items()]


def without_choice(scores: Tensor) -> Tensor:
    """Whether no token of a row can be chosen: its best score is not finite.

    Either the rules exclude all tokens, or the model's scores are not finite.

    Args:
        scores: `[rows, vocabulary]`.

    Returns:
        Booleans, `[rows]`.
    """
    return ~scores.amax(-1).isfinite()
