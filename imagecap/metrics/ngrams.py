"""N-grams of words as integers, counted with sorted numpy arrays. References are indexed once and reused."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
ORDERS = 4
# An n-gram is coded as (id of its first n-1 words) * BASE + (id of its last word): both stay below 2**31.
_BASE = np.int64(2**31)


@dataclass(frozen=True)
class Counts:
    """Counts of the n-grams of one order in each caption.

    Attributes:
        caption: index of the caption. `[entries]`, ascending
        gram: id of the n-gram. `[entries]`, ascending within a caption
        times: how often it occurs. `[entries]`
    """

    caption: Ints
    gram: Ints
    times: Ints


@dataclass(frozen=True)
class Level:
    """The references' n-grams of one order.

    Attributes:
        codes: sorted codes of the distinct n-grams; the position is the n-gram's id. `[grams]`
        idf: logarithm of the number of all images less that of the images with the n-gram in a reference. `[grams]`
        postings: one entry per reference and n-gram in it: image * number of n-grams + n-gram, sorted. `[entries]`
        caption: index of the reference of each entry. `[entries]`
        times: how often the n-gram occurs in that reference. `[entries]`
        image_gram: the distinct values of `postings`, which are pairs of an image and an n-gram. `[pairs]`
        most: the largest count of each pair in any one reference. `[pairs]`
    """

    codes: Ints
    idf: NDArray[np.float64]
    postings: Ints
    caption: Ints
    times: Ints
    image_gram: Ints
    most: Ints


@dataclass(frozen=True)
class Vocabulary:
    """The words and n-grams of all references, for references that are indexed a part of the images at a time.

    Attributes:
        words: id of each word.
        codes: `Level.codes` of the n-grams of 1 to 4 words.
        idf: `Level.idf` of the same n-grams.
        images: number of images.
    """

    words: dict[str, int]
    codes: list[Ints]
    idf: list[NDArray[np.float64]]
    images: int


@dataclass(frozen=True)
class References:
    """References of a set of images, tokenised and indexed once, to be scored against many times.

    Attributes:
        images: names, in order.
        language: language of all captions.
        tokenizer: name of the tokenizer.
        tokens: of each reference, image after image.
        image_of: index of the image of each reference. `[references]`
        words: id of each word.
        lengths: words per reference. `[references]`
        levels: n-grams of 1 to 4 words.
        documents: number of images whose references the idf comes from: of all images, where these are a part.
    """

    images: Sequence[str]
    language: str
    tokenizer: str
    tokens: list[list[str]]
    image_of: Ints
    words: dict[str, int]
    lengths: Ints
    levels: list[Level] = field(repr=False)
    documents: int

    @property
    def counts(self) -> Ints:
        """Number of references of each image. `[images]`"""
        return np.bincount(self.image_of, minlength=len(self.images)).astype(np.int64)

    @cached_property
    def masks(self) -> list[dict[str, int]]:
        """The `token_masks` of each reference, for the longest common subsequence of ROUGE-L."""
        return [token_masks(each) for each in self.tokens]


def index_references(
    images: Sequence[str],
    tokens: Sequence[Sequence[list[str]]],
    language: str,
    tokenizer: str,
    vocabulary: Vocabulary | None = None,
) -> References:
    """Index tokenised references.

    Args:
        images: names.
        tokens: those of the references of each image, which has at least one.
        language: of all captions.
        tokenizer: by which they were tokenised.
        vocabulary: of all references, if these are a part of them.
    """
    flat = [each for group in tokens for each in group]
    image_of = np.repeat(np.arange(len(images)), [len(group) for group in tokens]).astype(np.int64)
    documents = len(images) if vocabulary is None else vocabulary.images
    words: dict[str, int] = {} if vocabulary is None else vocabulary.words
    ids, lengths = word_ids(flat, words)
    levels: list[Level] = []
    prefix, rest, owner = ids, lengths, np.repeat(np.arange(len(flat)), lengths)
    for order in range(1, ORDERS + 1):
        if order > 1:
            coded, owner, rest = extend(prefix, ids, lengths, rest, order)
        else:
            coded = ids
        if vocabulary is None:
            codes, prefix = np.unique(coded, return_inverse=True)
        else:
            codes = vocabulary.codes[order - 1]
            prefix = np.searchsorted(codes, coded)
        prefix = prefix.astype(np.int64)
        counted = _count(owner, prefix, max(len(codes), 1))
        idf = None if vocabulary is None else vocabulary.idf[order - 1]
        levels.append(_level(codes, counted, image_of, documents, idf))
    return References(
        images=images,
        language=language,
        tokenizer=tokenizer,
        tokens=flat,
        image_of=image_of,
        words=words,
        lengths=lengths,
        levels=levels,
        documents=documents,
    )


def inverse_document_frequency(images_with: Ints, documents: int) -> NDArray[np.float64]:
    """`Level.idf` of n-grams that are in the references of so many images. `[grams]`"""
    idf: NDArray[np.float64] = np.log(float(documents)) - np.log(np.maximum(images_with, 1))
    return idf


def count_hypotheses(
    references: References, tokens: Sequence[list[str]], words: dict[str, int] | None = None
) -> tuple[list[Counts], Ints]:
    """Count the n-grams of captions by the references' ids. N-grams that are in no reference get larger ids.

    Args:
        references: decide the ids.
        tokens: of each caption.
        words: the ids of words, to which those that are in no reference are added: of captions that are counted a part
            at a time, a word so has one id in all parts. None: a copy of the references' ids.

    Returns:
        Counts per order, and the number of words of each caption. `[captions]`
    """
    ids, lengths = word_ids(tokens, dict(references.words) if words is None else words)
    result: list[Counts] = []
    prefix, rest, owner = ids, lengths, np.repeat(np.arange(len(tokens)), lengths)
    for order, level in enumerate(references.levels, start=1):
        if order > 1:
            coded, owner, rest = extend(prefix, ids, lengths, rest, order)
        else:
            coded = ids
        codes, grams = np.unique(coded, return_inverse=True)
        known, place = find_sorted(level.codes, codes)
        names = np.where(known, place, len(level.codes) + np.arange(len(codes)))
        prefix = names[grams].astype(np.int64)
        result.append(_count(owner, prefix, len(level.codes) + max(len(codes), 1)))
    return result, lengths


def word_ids(tokens: Sequence[list[str]], words: dict[str, int]) -> tuple[Ints, Ints]:
    """Map the words of captions to ids. New words are added to `words`.

    The official scorers join tokens by blanks and split again at any white space, so that a token such as
    "1\u00a01/2" is two words for BLEU and CIDEr, and one for ROUGE-L.

    Returns:
        The ids of all words, caption after caption, `[words]`, and the number of words of each caption, `[captions]`.
    """
    flat: list[int] = []
    lengths: list[int] = []
    setdefault = words.setdefault
    for caption in tokens:
        text = " ".join(caption)
        caption = text.split() if "\u00a0" in text or not text.isascii() else caption
        lengths.append(len(caption))
        flat.extend([setdefault(word, len(words)) for word in caption])
    return np.array(flat, dtype=np.int64), np.array(lengths, dtype=np.int64)


def find_sorted(values: Ints, wanted: Ints) -> tuple[NDArray[np.bool_], Ints]:
    """Look values up in a sorted array.

    Returns:
        Whether each wanted value is in `values`, and its position there. `[wanted]` each
    """
    if not len(values):
        return np.zeros(len(wanted), dtype=bool), np.zeros(len(wanted), dtype=np.int64)
    place = np.searchsorted(values, wanted)
    clipped = np.minimum(place, len(values) - 1)
    return values[clipped] == wanted, clipped.astype(np.int64)


def sum_by_index(index: Ints, values: NDArray, size: int) -> NDArray[np.float64]:
    """The sum of the values of each index from 0 to `size` - 1. `[size]`"""
    return np.bincount(index, weights=values, minlength=size).astype(np.float64)  # of nothing, it makes integers


def token_masks(tokens: Sequence[str]) -> dict[str, int]:
    """A bit mask per token: bit `i` is set if the token is at position `i`. No tokens count as one empty token."""
    masks: dict[str, int] = {}
    for position, token in enumerate(tokens or [""]):
        masks[token] = masks.get(token, 0) | 1 << position
    return masks


def extend(prefix: Ints, ids: Ints, lengths: Ints, rest: Ints, order: int) -> tuple[Ints, Ints, Ints]:
    """Make n-grams of (n-1)-grams: each but the last one of a caption is extended by a word.

    Args:
        prefix: ids of the (n-1)-grams, caption after caption.
        ids: ids of all words. `[words]`
        lengths: words per caption. `[captions]`
        rest: (n-1)-grams per caption. `[captions]`
        order: n.

    Returns:
        The codes of the n-grams, the caption of each, and the number of n-grams per caption.
    """
    left = np.maximum(rest - 1, 0)
    owner = np.repeat(np.arange(len(lengths)), left)
    step = np.arange(int(left.sum())) - np.repeat(np.cumsum(left) - left, left)
    before = np.repeat(np.cumsum(rest) - rest, left) + step
    word = np.repeat(np.cumsum(lengths) - lengths, left) + step + order - 1
    return prefix[before] * _BASE + ids[word], owner, left


def _count(owner: Ints, grams: Ints, size: int) -> Counts:
    pairs, times = np.unique(owner * np.int64(size) + grams, return_counts=True)
    return Counts(pairs // size, pairs % size, times.astype(np.int64))


def _level(codes: Ints, counted: Counts, image_of: Ints, documents: int, idf: NDArray[np.float64] | None) -> Level:
    size = max(len(codes), 1)
    postings = image_of[counted.caption] * size + counted.gram
    order = np.argsort(postings, kind="stable")
    postings, caption, times = postings[order], counted.caption[order], counted.times[order]
    image_gram, start = np.unique(postings, return_index=True)
    most = np.maximum.reduceat(times, start) if len(times) else times
    if idf is None:
        idf = inverse_document_frequency(np.bincount(image_gram % size, minlength=len(codes)), documents)
    return Level(codes, idf, postings, caption, times, image_gram, most)
