"""CIDEr-D (Vedantam et al. 2015, arXiv:1411.5726), vectorised over captions."""

from collections.abc import Sequence

import numpy as np

from imagecap.metrics.metric import Floats, TokenizedCaptions, mean_metric
from imagecap.metrics.ngrams import ORDERS, Counts, Ints, References, count_hypotheses, sum_by_index
from imagecap.metrics.tokenizers import tokenize

_SIGMA = 6.0


class Cider:
    """CIDEr-D against fixed references, whose norms are computed once.

    Args:
        references: the idf is theirs.
    """

    def __init__(self, references: References) -> None:
        self.references = references
        total = len(references.tokens)
        self.log_images = np.log(float(references.documents))
        self.counts = references.counts
        self.first = np.cumsum(self.counts) - self.counts
        self.bigrams = np.maximum(references.lengths - 1, 0).astype(np.float64)
        self.norms: list[Floats] = []
        for level in references.levels:
            gram = level.postings % max(len(level.codes), 1)
            self.norms.append(np.sqrt(sum_by_index(level.caption, (level.times * level.idf[gram]) ** 2, total)))

    def score(self, images: Sequence[int], captions: Sequence[str]) -> Floats:
        """CIDEr-D of each caption against the references of its image. `[captions]`

        Args:
            images: index of the image of each caption in `references.images`. An image may occur several times.
            captions: as written; they are tokenised like the references.
        """
        tokens = tokenize(captions, self.references.language, self.references.tokenizer)
        return self.of_counts(np.asarray(images, dtype=np.int64), count_hypotheses(self.references, tokens)[0])

    def of_counts(self, images: Ints, counts: Sequence[Counts]) -> Floats:
        """CIDEr-D of captions from their n-grams, as `count_hypotheses` returns them. `[captions]`"""
        references, captions = self.references, len(images)
        # one entry per pair of a caption and one of its references
        many = self.counts[images]
        start = np.cumsum(many) - many
        caption_of = np.repeat(np.arange(captions), many)
        reference = np.arange(int(many.sum())) + np.repeat(self.first[images] - start, many)
        delta = sum_by_index(counts[1].caption, counts[1].times, captions)[caption_of] - self.bigrams[reference]
        # length penalty of CIDEr-D; lengths are counted in bigrams, as coco-caption does
        penalty = np.exp(-(delta**2) / (2 * _SIGMA**2))
        similarity = np.zeros(len(reference))
        for level, own, norms in zip(references.levels, counts, self.norms, strict=True):
            size, idf = len(level.codes), level.idf
            # an n-gram in no reference counts in the norm as if it were in one image
            own_idf = np.full(len(own.gram), self.log_images)
            known = own.gram < size
            own_idf[known] = idf[own.gram[known]]
            own_norm = np.sqrt(sum_by_index(own.caption, (own.times * own_idf) ** 2, captions))
            caption = own.caption[known]
            wanted = images[caption] * max(size, 1) + own.gram[known]
            first = np.searchsorted(level.postings, wanted, side="left")
            length = np.searchsorted(level.postings, wanted, side="right") - first
            step = np.arange(int(length.sum())) - np.repeat(np.cumsum(length) - length, length)
            entry = np.repeat(first, length) + step
            owner = np.repeat(caption, length)
            times = np.repeat(own.times[known], length)
            weight = np.repeat(idf[own.gram[known]], length)
            dot = np.minimum(times, level.times[entry]) * level.times[entry] * weight**2
            pair = start[owner] + level.caption[entry] - self.first[images[owner]]
            value = sum_by_index(pair, dot, len(reference))
            norm = own_norm[caption_of] * norms[reference]
            similarity += np.divide(value, norm, out=value, where=norm != 0) * penalty
        return np.asarray(sum_by_index(caption_of, similarity, captions) / ORDERS / many * 10.0)


def cider_of_captions(captions: TokenizedCaptions) -> Floats:
    """CIDEr-D of one caption per image of the references. `[captions]`"""
    return Cider(captions.references).of_counts(np.arange(len(captions.references.images)), captions.counts)


CIDER = mean_metric("CIDEr", cider_of_captions)
