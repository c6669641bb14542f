"""Word n-grams as integers, counted with sorted numpy arrays; references are indexed once and reused."""

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
    """How often each n-gram of one order occurs in each caption: three columns, sorted by caption, then n-gram."""

    caption: Ints
    gram: Ints
    times: Ints


@dataclass(frozen=True)
class Level:
    """The references' n-grams of one order.

    Args:
        codes: sorted codes of the distinct n-grams; the position is the n-gram's id. `[grams]`
        images_with: in how many images' references each n-gram occurs. `[grams]`
        postings: image * grams + gram of every reference's n-gram, sorted. `[entries]`
        caption: the reference that each posting comes from. `[entries]`
        times: how often it occurs there. `[entries]`
        image_gram: the distinct values of `postings`. `[pairs]`
        most: the largest count in any one reference of the image, per pair. `[pairs]`
    """

    codes: Ints
    images_with: Ints
    postings: Ints
    caption: Ints
    times: Ints
    image_gram: Ints
    most: Ints


@dataclass(frozen=True)
class References:
    """References of a set of images, tokenised and indexed: made once, scored against many times.

    Args:
        images: names in order.
        language: language of all captions.
        tokenizer: resolved name.
        tokens: per reference caption, all images one after the other.
        image_of: image index of each reference. `[references]`
        words: id of every word.
        lengths: words per reference. `[references]`
        levels: n-grams of 1 to 4 words.
    """

    images: list[str]
    language: str
    tokenizer: str
    tokens: list[list[str]]
    image_of: Ints
    words: dict[str, int]
    lengths: Ints
    levels: list[Level] = field(repr=False)

    @property
    def counts(self) -> Ints:
        """How many references each image has. `[images]`"""
        return np.bincount(self.image_of, minlength=len(self.images)).astype(np.int64)

    @cached_property
    def masks(self) -> list[dict[str, int]]:
        """Per reference, bit positions of each token: what the longest common subsequence needs, and nothing else."""
        return [token_masks(each) for each in self.tokens]


def index_references(
    images: Sequence[str], tokens: Sequence[Sequence[list[str]]], language: str, tokenizer: str
) -> References:
    """Index tokenised references; `tokens[i]` are the token lists of `images[i]`, at least one each."""
    flat = [each for group in tokens for each in group]
    image_of = np.repeat(np.arange(len(images)), [len(group) for group in tokens]).astype(np.int64)
    words: dict[str, int] = {}
    ids, lengths = word_ids(flat, words)
    levels: list[Level] = []
    prefix, rest, owner = ids, lengths, np.repeat(np.arange(len(flat)), lengths)
    for order in range(1, ORDERS + 1):
        if order > 1:
            coded, owner, rest = _extend(prefix, ids, lengths, rest, order)
        else:
            coded = ids
        codes, grams = np.unique(coded, return_inverse=True)
        counted = _count(owner, grams.astype(np.int64), max(len(codes), 1))
        levels.append(_level(codes, counted, image_of, len(images)))
        prefix = grams.astype(np.int64)
    return References(
        images=list(images),
        language=language,
        tokenizer=tokenizer,
        tokens=flat,
        image_of=image_of,
        words=words,
        lengths=lengths,
        levels=levels,
    )


def count_hypotheses(references: References, tokens: Sequence[list[str]]) -> tuple[list[Counts], Ints]:
    """N-gram counts of captions in the references' ids; an n-gram that no reference has gets a larger id.

    Returns:
        Counts per order, and the number of words of each caption. `[captions]`
    """
    ids, lengths = word_ids(tokens, dict(references.words))
    result: list[Counts] = []
    prefix, rest, owner = ids, lengths, np.repeat(np.arange(len(tokens)), lengths)
    for order, level in enumerate(references.levels, start=1):
        if order > 1:
            coded, owner, rest = _extend(prefix, ids, lengths, rest, order)
        else:
            coded = ids
        codes, grams = np.unique(coded, return_inverse=True)
        known, place = find_sorted(level.codes, codes)
        names = np.where(known, place, len(level.codes) + np.arange(len(codes)))
        prefix = names[grams].astype(np.int64)
        result.append(_count(owner, prefix, len(level.codes) + max(len(codes), 1)))
    return result, lengths


def word_ids(tokens: Sequence[list[str]], words: dict[str, int]) -> tuple[Ints, Ints]:
    """All captions' words as one array, and the words per caption; new words are added to `words`.

    The official scorers join tokens by blanks and split again at any white space, so that a token such as
    "1\u00a01/2" is two words to BLEU and CIDEr, while it is one to ROUGE-L.
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
    """Whether each wanted value is in the sorted array `values`, and where."""
    if not len(values):
        return np.zeros(len(wanted), dtype=bool), np.zeros(len(wanted), dtype=np.int64)
    place = np.searchsorted(values, wanted)
    clipped = np.minimum(place, len(values) - 1)
    return values[clipped] == wanted, clipped.astype(np.int64)


def sum_by_index(index: Ints, values: NDArray, size: int) -> NDArray[np.float64]:
    """The sum of the values of each index from 0 to `size` - 1. `[size]`"""
    return np.bincount(index, weights=values, minlength=size).astype(np.float64)  # of nothing, it makes integers


def token_masks(tokens: Sequence[str]) -> dict[str, int]:
    """Bit `i` of a token's mask says that the token stands at position `i`. No token at all is one empty one."""
    masks: dict[str, int] = {}
    for position, token in enumerate(tokens or [""]):
        masks[token] = masks.get(token, 0) | 1 << position
    return masks


def _extend(prefix: Ints, ids: Ints, lengths: Ints, rest: Ints, order: int) -> tuple[Ints, Ints, Ints]:
    """Codes of n-grams from the ids of (n-1)-grams: each but a caption's last is followed by one more word."""
    left = np.maximum(rest - 1, 0)
    owner = np.repeat(np.arange(len(lengths)), left)
    step = np.arange(int(left.sum())) - np.repeat(np.cumsum(left) - left, left)
    before = np.repeat(np.cumsum(rest) - rest, left) + step
    word = np.repeat(np.cumsum(lengths) - lengths, left) + step + order - 1
    return prefix[before] * _BASE + ids[word], owner, left


def _count(owner: Ints, grams: Ints, size: int) -> Counts:
    pairs, times = np.unique(owner * np.int64(size) + grams, return_counts=True)
    return Counts(pairs // size, pairs % size, times.astype(np.int64))


def _level(codes: Ints, counted: Counts, image_of: Ints, images: int) -> Level:
    size = max(len(codes), 1)
    postings = image_of[counted.caption] * size + counted.gram
    order = np.argsort(postings, kind="stable")
    postings, caption, times = postings[order], counted.caption[order], counted.times[order]
    image_gram, start = np.unique(postings, return_index=True)
    most = np.maximum.reduceat(times, start) if len(times) else times
    images_with = np.bincount(image_gram % size, minlength=len(codes)).astype(np.int64)
    return Level(codes, images_with, postings, caption, times, image_gram, most)
