"""References of any number of images, which are indexed and scored a part of the images at a time.

The scores are those of `score`, to the last bit. Memory grows with the distinct n-grams of the references, whose idf
CIDEr needs, and with a few numbers per image.
"""

import tempfile
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import IO, TypeVar

import numpy as np

from imagecap.data.views import View
from imagecap.errors import ImageCapError
from imagecap.metrics.metric import Floats, Measurement, Metric, TokenizedCaptions, compact, joined
from imagecap.metrics.ngrams import (
    ORDERS,
    Ints,
    References,
    Vocabulary,
    count_hypotheses,
    extend,
    index_references,
    inverse_document_frequency,
    word_ids,
)
from imagecap.metrics.scores import Scores, computed_metrics, scores_of
from imagecap.metrics.tokenizers import resolve_tokenizer, tokenize

PART_IMAGES = 512

Name = TypeVar("Name", bound=Hashable)


class Corpus:
    """References of a set of images, to be scored against many times.

    Args:
        references: the captions of each image, one at least; they are asked for several times, image after image.
        language: see `tokenize`.
        tokenizer: see `tokenize`; None is the default of the language.

    Attributes:
        tokenizer: name of the tokenizer.
        vocabulary: words and n-grams of all references.
        mean_lengths: mean number of words of the references of each image. `[images]`

    Raises:
        ImageCapError: there is no image, or an image has no reference.
    """

    def __init__(self, references: Sequence[Sequence[str]], language: str = "en", tokenizer: str | None = None) -> None:
        self.tokenizer = resolve_tokenizer(language, tokenizer)
        self.language = language
        self._references = references
        if not references:
            raise ImageCapError("there are no references to score against")
        self.mean_lengths: Floats = np.zeros(len(references))
        self.vocabulary = self._count()

    def __len__(self) -> int:
        return len(self._references)

    def parts(self) -> Iterator[tuple[slice, References]]:
        """Yield the places of the images of each part, and their references. Images are named by their places."""
        for places in self._places():
            names = [str(place) for place in range(places.start, places.stop)]
            yield (
                places,
                index_references(names, self._tokens(places), self.language, self.tokenizer, self.vocabulary),
            )

    def _places(self) -> Iterator[slice]:
        for start in range(0, len(self), PART_IMAGES):
            yield slice(start, min(start + PART_IMAGES, len(self)))

    def _tokens(self, places: slice) -> list[list[list[str]]]:
        """The tokens of the references of some images."""
        found = []
        for place in range(places.start, places.stop):
            captions = self._references[place]
            if isinstance(captions, str) or not captions:
                raise ImageCapError(f"image {place + 1}: references must be a list of at least one caption")
            found.append(tokenize(captions, self.language, self.tokenizer))
        return found

    def _count(self) -> Vocabulary:
        """The words and n-grams of all references. Their words are kept in a temporary file meanwhile."""
        words: dict[str, int] = {}
        codes: list[Ints] = []
        idf: list[Floats] = []
        with tempfile.TemporaryFile() as file:
            for places in self._places():
                tokens = self._tokens(places)
                ids, lengths = word_ids([each for group in tokens for each in group], words)
                image_of = np.repeat(np.arange(len(tokens)), [len(group) for group in tokens])
                self.mean_lengths[places] = np.bincount(image_of, lengths) / np.bincount(image_of)
                for array in (ids, lengths, image_of):
                    np.save(file, array.astype(np.int32))
            for order in range(1, ORDERS + 1):
                file.seek(0)
                counts = _DocumentCounts()
                for _ in self._places():
                    counts.add(*_coded(file, codes, order))
                known, images_with = counts.total()
                codes.append(known)
                idf.append(inverse_document_frequency(images_with, len(self)))
        return Vocabulary(words, codes, idf, len(self))


class _DocumentCounts:
    """In how many images each code occurs, counted a part of the images at a time."""

    def __init__(self) -> None:
        self._codes, self._images = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._new: list[tuple[Ints, Ints]] = []
        self._waiting = 0

    def add(self, codes: Ints, image_of: Ints) -> None:
        """Count the codes of some images, each with its image. `[codes]` each"""
        distinct, places = np.unique(codes, return_inverse=True)
        pairs = np.unique(image_of * np.int64(max(len(distinct), 1)) + places)
        self._new.append((distinct, np.bincount(pairs % max(len(distinct), 1), minlength=len(distinct))))
        self._waiting += len(distinct)
        if self._waiting > len(self._codes):  # so that every code is merged a few times only
            self._merge()

    def total(self) -> tuple[Ints, Ints]:
        """The distinct codes, sorted, and the number of images of each. `[distinct]` each"""
        self._merge()
        return self._codes, self._images

    def _merge(self) -> None:
        parts = [(self._codes, self._images), *self._new]
        codes, places = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
        counts = np.bincount(places, np.concatenate([part[1] for part in parts]), len(codes))
        self._codes, self._images = codes, counts.astype(np.int64)
        self._new, self._waiting = [], 0


def _coded(file: IO[bytes], codes: Sequence[Ints], order: int) -> tuple[Ints, Ints]:
    """Codes of the n-grams of the references that come next in a file, and the image of each.

    Args:
        file: words, lengths and images of references, a part after the other.
        codes: `Level.codes` of the n-grams of fewer words.
        order: number of words.
    """
    ids, lengths, image_of = (np.load(file).astype(np.int64) for _ in range(3))
    coded, rest, owner = ids, lengths, np.repeat(np.arange(len(lengths)), lengths)
    for longer in range(2, order + 1):
        prefix = np.searchsorted(codes[longer - 2], coded)
        coded, owner, rest = extend(prefix, ids, lengths, rest, longer)
    return coded, image_of[owner]


def score_corpus(
    corpus: Corpus, captions: Sequence[str], others: Mapping[Name, Sequence[str]]
) -> tuple[Scores, dict[Name, dict[str, float]]]:
    """Score one caption per image of a corpus, in its order, as `score` does.

    Args:
        corpus: the references.
        captions: one per image.
        others: by name, further captions of all images, of which only the overall scores are wanted, without metrics
            that need an external program.

    Returns:
        The scores of the captions, whose images are named by their places; the overall scores of the others by name.
    """
    metrics = computed_metrics(corpus.language)
    parts: list[list[Measurement]] = [[] for _ in metrics]
    counted = _Counted(corpus)
    with ExitStack() as files:
        totals = {
            name: [_Total(metric, files) for metric in computed_metrics(corpus.language, programs=False)]
            for name in others
        }
        counted_others = {name: _Counted(corpus) for name in others}
        for places, references in corpus.parts():
            tokenized = counted.of_part(references, captions[places])
            for metric, found in zip(metrics, parts, strict=True):
                part = metric.measure(tokenized)
                found.append(part if metric.of_sums is None else replace(part, statistics=compact(part.statistics)))
            for name, said in others.items():
                tokenized = counted_others[name].of_part(references, said[places])
                for total in totals[name]:
                    total.add(tokenized)
        overall = {
            name: {key: value for total in each for key, value in total.overall().items()}
            for name, each in totals.items()
        }
    measured = [(metric, joined(metric, found)) for metric, found in zip(metrics, parts, strict=True)]
    return scores_of(corpus.language, corpus.tokenizer, View(str, range(len(corpus))), measured), overall


def overall_scores(corpus: Corpus, captions: Sequence[str]) -> dict[str, float]:
    """The overall scores of one caption per image, without metrics that need an external program."""
    metrics, counted = computed_metrics(corpus.language, programs=False), _Counted(corpus)
    with ExitStack() as files:
        totals = [_Total(metric, files) for metric in metrics]
        for places, references in corpus.parts():
            tokenized = counted.of_part(references, captions[places])
            for total in totals:
                total.add(tokenized)
        return {name: value for total in totals for name, value in total.overall().items()}


class _Counted:
    """Tokenises and counts captions a part at a time, so that a word has one id in all parts."""

    def __init__(self, corpus: Corpus) -> None:
        self._words = dict(corpus.vocabulary.words)

    def of_part(self, references: References, captions: Sequence[str]) -> TokenizedCaptions:
        """The captions of a part of the images."""
        tokens = tokenize(captions, references.language, references.tokenizer)
        return TokenizedCaptions(references, tokens, *count_hypotheses(references, tokens, self._words))


@contextmanager
def _temporary_file() -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as file:
        yield file


class _Total:
    """The overall scores that a metric gives to captions which are measured a part at a time.

    Args:
        metric: the metric.
        files: closes the temporary file with the scores of all captions, of which a metric may be the mean.
    """

    def __init__(self, metric: Metric, files: ExitStack) -> None:
        self._metric, self._sums = metric, np.zeros(1)
        self._file = files.enter_context(_temporary_file()) if metric.of_sums is None else None

    def add(self, captions: TokenizedCaptions) -> None:
        """Measure a part of the captions."""
        statistics = self._metric.measure(captions).statistics
        if self._file is not None:
            self._file.write(np.ascontiguousarray(statistics, np.float64).tobytes())
        else:
            self._sums = self._sums + statistics.sum(axis=0)

    def overall(self) -> dict[str, float]:
        """The score of each name of the metric."""
        if self._file is not None:
            self._file.seek(0)
            values = np.frombuffer(self._file.read(), np.float64).reshape(-1, len(self._metric.names))
            found = self._metric.overall(values)
        else:
            assert self._metric.of_sums is not None
            found = self._metric.of_sums(self._sums)
        return dict(zip(self._metric.names, map(float, found), strict=True))
