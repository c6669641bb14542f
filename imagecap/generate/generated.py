"""A generated caption."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class GeneratedCaption:
    """A caption.

    Attributes:
        text: decoded, without special tokens and outer white space.
        token_ids: the generated tokens, with the one that ended the caption.
        score: greedy and sampled captions: mean log-probability per token; beams: sum of log-probabilities divided by
            length ** length_penalty. NaN if decoding failed; see `error`.
        others: the other captions of the same picture; empty unless `num_captions` is above 1.
    """

    text: str
    token_ids: list[int]
    score: float
    others: tuple["GeneratedCaption", ...] = ()

    @property
    def error(self) -> str | None:
        """Why there is no such caption, or fewer than `num_captions`, in a sentence for the user; None if there is."""
        if all(math.isfinite(each.score) for each in (self, *self.others)):
            return None
        return (
            "no token could be chosen, because the settings exclude all of them or the model's scores are not finite: "
            "lower no_repeat_ngram_size, min_length or num_captions"
        )
