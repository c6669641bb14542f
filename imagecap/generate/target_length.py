"""The rule of `target_length`: a caption ends within 20 % of so many words.

Below 80 % of the words no end token may be chosen, and beyond 120 % no token that begins a further word, so that only
the end, the signs of an end and the rest of the last word are left. Between, every word beyond the target makes the end
likelier, so that a caption ends where its sentence can, instead of being cut at the last word that is allowed.
"""

import torch
from torch import Tensor

from imagecap.generate.token_texts import TokenTexts

GOES_ON = frozenset(" ,;:，、；：-–—(（")  # signs after which a word must follow
END_BONUS = 2.0  # added to the log-probability of the end for every word beyond the target


def bounds(target: int) -> tuple[int, int]:
    """The smallest and the largest number of words that are within 20 % of `target`."""
    return -(-4 * target // 5), 6 * target // 5


class TargetLength:
    """The rule of one batch.

    Args:
        target: number of words.
        texts: the tokens of the captioner.
        end_ids: ids of the tokens that end a caption, `[end tokens]`.
        start_words: words of the text that all captions begin with.
    """

    def __init__(self, target: int, texts: TokenTexts, end_ids: Tensor, start_words: int = 0) -> None:
        self._target, self._texts, self._end_ids, self._start_words = target, texts, end_ids, start_words
        goes_on = [bool(text) and GOES_ON.issuperset(text) for text in texts.texts]
        self._goes_on = torch.tensor(goes_on, device=end_ids.device)
        self._words, self._joins = texts.words.to(end_ids.device), texts.joins.to(end_ids.device)

    def __call__(self, scores: Tensor, generated: Tensor, before: Tensor | None = None) -> Tensor:
        """Return the scores that the next tokens are chosen by; `scores` itself is not changed.

        Args:
            scores: `[..., vocabulary]`.
            generated: tokens generated so far, `[..., tokens]`.
            before: the last token of the text that captions begin with, `[..., 1]`; None: there is no such text.
        """
        fewest, most = bounds(self._target)
        counted, last_open = self._texts.count(generated, before)
        counted = (counted + self._start_words)[..., None]
        added = self._words - (self._joins & last_open[..., None]).long()
        too_long = (counted + added > most) & (added > 0)
        scores = scores.masked_fill(too_long | ((counted >= most) & self._goes_on), -torch.inf)
        bonus = END_BONUS * (counted - self._target).clamp(min=0).to(scores.dtype)
        ends = (scores[..., self._end_ids] + bonus).masked_fill(counted < fewest, -torch.inf)
        return scores.index_copy(-1, self._end_ids, ends)
