"""A generated caption, decoded from its token ids."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imagecap.config import GenerateSettings
from imagecap.data.texts import is_blank
from imagecap.generate.prompts import caption_text

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner


@dataclass(frozen=True)
class GeneratedCaption:
    """A caption.

    Attributes:
        text: decoded, without special tokens and outer white space.
        token_ids: the generated tokens, with the one that ended the caption.
        score: greedy and sampled captions: mean log-probability per token; beams: sum of log-probabilities divided by
            length ** length_penalty. NaN if decoding failed; see `error`.
        others: the other captions of the same picture; empty unless `num_captions` is above 1.
        empty_allowed: whether the text may be empty, as `allow_empty` of the settings says.
    """

    text: str
    token_ids: list[int]
    score: float
    others: tuple["GeneratedCaption", ...] = ()
    empty_allowed: bool = False

    @property
    def error(self) -> str | None:
        """Why there is no such caption, or fewer than `num_captions`, in a sentence for the user; None if there is."""
        if not all(math.isfinite(each.score) for each in (self, *self.others)):
            return (
                "no token could be chosen, because the settings exclude all of them or the model's scores are not "
                "finite: lower no_repeat_ngram_size, min_length or num_captions, or avoid fewer words"
            )
        if not self.empty_allowed and any(is_blank(each.text) for each in (self, *self.others)):
            return "the model generated an empty caption: train it longer, or set allow_empty"
        return None


def decoded_caption(
    model: "ImageCaptioner", tokens: list[int], score: float, settings: GenerateSettings
) -> GeneratedCaption:
    """The caption of generated token ids and their score."""
    text = caption_text(model, tokens, settings)
    return GeneratedCaption(text, tokens, score, empty_allowed=settings.allow_empty)
