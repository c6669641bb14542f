"""The scores of coco-caption: corpus and per-image BLEU 1-4, ROUGE-L and CIDEr-D, vectorised over images.

Same numbers as pycocoevalcap 1.2 (`Bleu(4)` with the closest reference length, `Rouge`, `Cider`), its fudge terms
included: Papineni et al. 2002; Lin 2004; Vedantam et al. 2015 (`cider.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from imagecap.errors import ImageCapError
from imagecap.metrics.cider import Cider, sums
from imagecap.metrics.java import MeteorScores, has_meteor, meteor_of_sums, meteor_scores
from imagecap.metrics.ngrams import (
    ORDERS,
    Counts,
    References,
    count_hypotheses,
    find,
    index_references,
)
from imagecap.metrics.tokenizers import resolve_tokenizer, tokenize

Floats = NDArray[np.float64]

# BLEU's guards against division by zero, as in coco-caption: they show in the scores of hopeless captions.
_SMALL, _TINY = 1e-9, 1e-15
_ROUGE_BETA = 1.2


@dataclass(frozen=True)
class BleuParts:
    """What corpus BLEU is a function of, per image, so that any subset's or resample's BLEU is a sum away.

    Args:
        correct: clipped matches per order. `[images, 4]`
        guess: n-grams in the caption per order. `[images, 4]`
        length: words in the caption. `[images]`
        reference_length: words in the reference of closest length. `[images]`
    """

    correct: Floats
    guess: Floats
    length: Floats
    reference_length: Floats


@dataclass(frozen=True)
class Scores:
    """Scores as fractions (CIDEr up to 10).

    Args:
        overall: one number per name in `METRICS`, and `METEOR` where it was computed.
        per_image: the same names per image.
        language: language of the captions.
        tokenizer: the tokenizer that was used.
        columns: per-image scores as arrays in the order of `images`. `[images]` each
        images: names in order.
        bleu: the parts of BLEU per image.
        meteor: what METEOR's overall score is a function of, where it was computed. `[images, counts]`
    """

    overall: dict[str, float]
    per_image: dict[str, dict[str, float]]
    language: str
    tokenizer: str
    columns: dict[str, Floats]
    images: list[str]
    bleu: BleuParts
    meteor: Floats | None = None

    def resample_corpus_metrics(self, weights: Floats) -> dict[str, Floats]:
        """Overall scores of resampled sets of images, for the metrics that are not the mean over images.

        Args:
            weights: how often each image is in each resample. `[resamples, images]`

        Returns:
            `[resamples]` for each of BLEU 1 to 4, and for METEOR where it was computed.
        """
        bleu = self.bleu
        corpus = bleu_scores(
            weights @ bleu.correct, weights @ bleu.guess, weights @ bleu.length, weights @ bleu.reference_length
        )
        found = {f"Bleu_{order + 1}": corpus[:, order] for order in range(ORDERS)}
        if self.meteor is not None:
            found["METEOR"] = meteor_of_sums(weights @ self.meteor)
        return found

    def subset(self, chosen: Sequence[int] | NDArray[np.int64]) -> "Scores":
        """The scores of some of the images, by index; CIDEr keeps the idf of all. METEOR is left out."""
        bleu = BleuParts(*(getattr(self.bleu, part.name)[chosen] for part in fields(self.bleu)))
        columns = {name: values[chosen] for name, values in self.columns.items() if name != "METEOR"}
        images = [self.images[index] for index in chosen]
        return replace(
            self,
            overall=overall_scores(columns, bleu),
            per_image={image: self.per_image[image] for image in images},
            columns=columns,
            images=images,
            bleu=bleu,
            meteor=None,
        )


def prepare_references(
    references: Mapping[str, Sequence[str]], language: str = "en", tokenizer: str | None = None
) -> References:
    """Tokenise and index references once; `score` takes the result in their place.

    Args:
        references: per image, one or more captions.
        language: see `tokenize`.
        tokenizer: see `tokenize`.

    Raises:
        ImageCapError: there is no image, or an image has no reference.
    """
    name = resolve_tokenizer(language, tokenizer)
    if not references:
        raise ImageCapError("there are no references to score against")
    for image, captions in references.items():
        if isinstance(captions, str) or not captions:
            raise ImageCapError(f"image {image!r}: references must be a list of at least one caption")
    flat = tokenize([caption for captions in references.values() for caption in captions], language, name)
    tokens, start = [], 0
    for captions in references.values():
        tokens.append(flat[start : start + len(captions)])
        start += len(captions)
    return index_references(list(references), tokens, language, name)


def score(
    references: Mapping[str, Sequence[str]] | References,
    hypotheses: Mapping[str, str],
    language: str = "en",
    tokenizer: str | None = None,
    *,
    meteor: bool = True,
) -> Scores:
    """Score one caption per image against its references.

    Each caption is tokenised alone. (In the official tokenizer a caption's last token can depend on the caption of
    the next line, in about 3 of 25,000 captions.) CIDEr's idf comes from the references given here.

    Args:
        references: captions per image, or what `prepare_references` made of them (language and tokenizer are
            then those it was made with).
        hypotheses: one caption for each of the same images.
        language: `"en"` or `"zh"`.
        tokenizer: see `tokenize`; None is the default of the language.
        meteor: compute METEOR too where it is installed (`metrics.java`) and the language is English.

    Raises:
        ImageCapError: the images of the two differ, an image has no reference, or the tokenizer is unknown.
    """
    prepared = references if isinstance(references, References) else prepare_references(references, language, tokenizer)
    _check_same_images(prepared.images, hypotheses)
    tokens = tokenize([hypotheses[image] for image in prepared.images], prepared.language, prepared.tokenizer)
    counts, lengths = count_hypotheses(prepared, tokens)
    bleu = _bleu_parts(prepared, counts, lengths)
    per_image = bleu_scores(bleu.correct, bleu.guess, bleu.length, bleu.reference_length)
    columns = {f"Bleu_{order + 1}": per_image[:, order] for order in range(ORDERS)}
    columns |= {name: metric(prepared, tokens, counts) for name, metric in MEAN_METRICS.items()}
    overall = overall_scores(columns, bleu)
    matches = _meteor(prepared, tokens) if meteor and prepared.language == "en" and has_meteor() else None
    if matches is not None:
        columns["METEOR"], overall["METEOR"] = matches.per_image, matches.overall
    rows = zip(*(columns[name].tolist() for name in columns), strict=True)
    return Scores(
        overall=overall,
        per_image={
            image: dict(zip(columns, row, strict=True)) for image, row in zip(prepared.images, rows, strict=True)
        },
        language=prepared.language,
        tokenizer=prepared.tokenizer,
        columns=columns,
        images=list(prepared.images),
        bleu=bleu,
        meteor=matches.statistics if matches is not None else None,
    )


def _meteor(references: References, tokens: Sequence[list[str]]) -> MeteorScores:
    ends = np.cumsum(references.counts).tolist()
    joined = [" ".join(each) for each in references.tokens]
    wanted = [joined[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return meteor_scores(wanted, [" ".join(each) for each in tokens])


def overall_scores(columns: Mapping[str, Floats], bleu: BleuParts, chosen: NDArray | None = None) -> dict[str, float]:
    """Corpus scores of all images, or of the `chosen` ones (indices or a mask): BLEU from summed counts, means else."""
    pick = slice(None) if chosen is None else chosen
    corpus = bleu_scores(
        bleu.correct[pick].sum(axis=0), bleu.guess[pick].sum(axis=0), bleu.length[pick].sum(), _total(bleu, pick)
    )
    result = {f"Bleu_{order + 1}": float(corpus[order]) for order in range(ORDERS)}
    for name in MEAN_METRICS:
        result[name] = float(np.mean(columns[name][pick]))
    return result


def bleu_scores(correct: Floats, guess: Floats, length: Floats, reference_length: Floats) -> Floats:
    """BLEU 1 to 4 from counts: `[..., 4]` and `[...]` in, `[..., 4]` out."""
    precision = np.cumprod((correct + _TINY) / (guess + _SMALL), axis=-1)
    bleu = precision ** (1.0 / np.arange(1, ORDERS + 1))
    ratio = (np.asarray(length) + _TINY) / (np.asarray(reference_length) + _SMALL)
    with np.errstate(over="ignore", under="ignore"):
        penalty = np.where(ratio < 1, np.exp(1 - 1 / ratio), 1.0)
    return np.asarray(bleu * penalty[..., None])


def _total(bleu: BleuParts, pick: slice | NDArray) -> Floats:
    return np.asarray(bleu.reference_length[pick].sum())


def _check_same_images(images: Sequence[str], hypotheses: Mapping[str, str]) -> None:
    missing = [image for image in images if image not in hypotheses]
    if missing:
        raise ImageCapError(f"{len(missing)} images have no caption to score, the first is {missing[0]!r}")
    if len(hypotheses) > len(images):
        known = set(images)
        extra = [image for image in hypotheses if image not in known]
        raise ImageCapError(f"{len(extra)} images have a caption but no references, the first is {extra[0]!r}")


def _bleu_parts(references: References, counts: Sequence[Counts], lengths: NDArray[np.int64]) -> BleuParts:
    images = len(references.images)
    correct = np.zeros((images, ORDERS))
    for order, (level, own) in enumerate(zip(references.levels, counts, strict=True)):
        known = own.gram < len(level.codes)
        image, times = own.caption[known], own.times[known]
        found, place = find(level.image_gram, image * max(len(level.codes), 1) + own.gram[known])
        matches = np.where(found, np.minimum(times, level.most[place] if len(level.most) else 0), 0)
        correct[:, order] = sums(image, matches, images)
    guess = np.maximum(lengths[:, None] - np.arange(ORDERS)[None, :], 0).astype(np.float64)
    # the closest reference length; of two equally close ones the shorter
    distance = np.abs(references.lengths - lengths[references.image_of])
    start = np.searchsorted(references.image_of, np.arange(images))
    best = np.minimum.reduceat(distance * np.int64(2**31) + references.lengths, start) % np.int64(2**31)
    return BleuParts(correct, guess, lengths.astype(np.float64), best.astype(np.float64))


def _cider(references: References, tokens: Sequence[list[str]], counts: Sequence[Counts]) -> Floats:
    return Cider(references).of_counts(np.arange(len(references.images)), counts)


def _rouge(references: References, tokens: Sequence[list[str]], counts: Sequence[Counts]) -> Floats:
    """ROUGE-L: the best precision and the best recall over the references, each by itself, then F with beta 1.2."""
    result = np.zeros(len(references.images))
    ends = np.cumsum(references.counts).tolist()
    start = 0
    for index, end in enumerate(ends):
        caption = tokens[index] or [""]
        precision = recall = 0.0
        for each in range(start, end):
            size = len(references.tokens[each]) or 1
            common = _common_subsequence(references.masks[each], size, caption)
            precision = max(precision, common / len(caption))
            recall = max(recall, common / size)
        if precision and recall:
            result[index] = ((1 + _ROUGE_BETA**2) * precision * recall) / (recall + _ROUGE_BETA**2 * precision)
        start = end
    return result


def _common_subsequence(masks: Mapping[str, int], size: int, tokens: Sequence[str]) -> int:
    """Length of the longest common subsequence, one machine addition per token (Hyyrö 2004)."""
    ones = (1 << size) - 1
    row = ones
    for token in tokens:
        mask = masks.get(token)
        if mask is not None:
            matches = row & mask
            row = (row + matches) | (row - matches)
    return size - (row & ones).bit_count()


# Metrics whose overall score is the mean over the images. Each gets the references, the tokens of each caption and
# the captions' n-gram counts, and returns one score per image: `[images]`. A new metric is a function named here.
MEAN_METRICS: dict[str, Callable[[References, Sequence[list[str]], Sequence[Counts]], Floats]] = {
    "ROUGE_L": _rouge,
    "CIDEr": _cider,
}
METRICS: tuple[str, ...] = (*(f"Bleu_{order + 1}" for order in range(ORDERS)), *MEAN_METRICS)
