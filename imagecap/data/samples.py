"""Samples as a view of an index: a single one is made when it is asked for, however many there are."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from operator import methodcaller
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imagecap.data.columns import flag_column, hex_digests
from imagecap.data.locations import Location, file_of
from imagecap.data.parts import Part
from imagecap.data.perceptual import Hashes
from imagecap.data.record_batches import parts_of, record_batches
from imagecap.data.records import SPLITS, LeftOut, PictureFacts, Sample, Split, added

Rows = NDArray[np.int64]

_BYTES = 256  # values of a byte


class Samples(Sequence[Sample]):
    """A sequence of samples that are rows of parts.

    Attributes:
        left_out: what settings left out when the data set was read; nothing for a selection of its samples.

    Args:
        parts: the parts; their rows are numbered through.
        rows: the rows that are samples, in order; None: all.
        splits: index into `SPLITS` of every row of the parts; None: the column of the parts.
        dropped: for rows whose captions are not all used, the numbers within the picture of those that are left out.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        rows: Rows | None = None,
        splits: NDArray[np.int8] | None = None,
        dropped: Mapping[int, frozenset[int]] | None = None,
    ) -> None:
        self.parts = list(parts)
        self._first = np.concatenate([[0], np.cumsum([len(part) for part in self.parts], dtype=np.int64)])
        self._starts: list[int] = self._first[:-1].tolist()
        self.rows: Rows = np.arange(self._first[-1]) if rows is None else rows
        self._all_splits = self._of_each_part(lambda part: part.splits, np.int8) if splits is None else splits
        self.left_out: LeftOut = {}
        self._looked_at = 0  # number of the part that a sample was taken from last
        self._dropped = dropped or {}
        self._dropping = np.sort(np.fromiter(self._dropped, np.int64, len(self._dropped)))

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> "Samples": ...

    def __getitem__(self, index: int | slice) -> "Sample | Samples":
        if isinstance(index, slice):
            return self.select(index)
        return self._sample(int(self.rows[index]))

    def _sample(self, row: int) -> Sample:
        part, of_part = self._place(row)
        split: Split = SPLITS[self._all_splits[row]]
        return part.sample(of_part, split, self._dropped.get(row, ()))

    def _place(self, row: int) -> tuple[Part, int]:
        """The part of a row, and the row's number in it."""
        number = bisect_right(self._starts, row) - 1
        if number != self._looked_at:  # the pages of the part before would stay in memory
            self.parts[self._looked_at].forget_pages()
            self._looked_at = number
        return self.parts[number], row - self._starts[number]

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        """Whether two sequences hold equal samples in the same order."""
        if not isinstance(other, Samples | list | tuple):
            return NotImplemented
        return len(self) == len(other) and all(ours == theirs for ours, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as for lists

    def select(self, chosen: "slice | NDArray[np.int64] | NDArray[np.bool_]") -> "Samples":
        """The samples at these indices, in their order, or for which a mask is true."""
        return Samples(self.parts, self.rows[chosen], self._all_splits, self._dropped)

    def of_split(self, split: Split) -> "Samples":
        """The samples of a split, in order."""
        return self.select(self.splits == SPLITS.index(split))

    def moved_to(self, split: Split) -> "Samples":
        """The same samples, all in one split."""
        return Samples(self.parts, self.rows, np.full_like(self._all_splits, SPLITS.index(split)), self._dropped)

    def sorted_by_digest(self) -> "Samples":
        """The samples ordered by the digests of their pictures; those with equal digests keep their order."""
        return self.select(np.argsort(self.digests, kind="stable"))

    @property
    def digests(self) -> NDArray[np.bytes_]:
        """The 32 bytes of each picture's digest, which compare as bytes do. `[samples]`"""
        return self._of_each_part(lambda part: part.digests, "V32")[self.rows].view("S32")

    # single fields of a sample: they take less time than the whole sample

    def facts(self, index: int) -> PictureFacts:
        """What is known of the picture of a sample."""
        part, row = self._place(int(self.rows[index]))
        return part.facts(row)

    def image(self, index: int) -> str:
        """The name of the picture of a sample."""
        part, row = self._place(int(self.rows[index]))
        return part.image(row)

    def digest(self, index: int) -> str:
        """The `picture_digest` of a sample."""
        part, row = self._place(int(self.rows[index]))
        return part.digest(row)

    def location(self, index: int) -> Location:
        """Where the picture of a sample is."""
        part, row = self._place(int(self.rows[index]))
        return part.location(row)

    def prompts_and_texts(self, index: int) -> list[tuple[str, str]]:
        """Prompt and text of each caption of a sample."""
        number = int(self.rows[index])
        part, row = self._place(number)
        return part.prompts_and_texts(row, self._dropped.get(number, ()))

    def hex_digests(self) -> Iterator[str]:
        """Yield the digest of each picture as text."""
        return hex_digests(self.digests)

    @property
    def sizes(self) -> NDArray[np.int32]:
        """Width and height of each picture, zeros where they are not known. `[samples, 2]`"""
        return np.concatenate([np.zeros((0, 2), np.int32), *(part.sizes for part in self.parts)])[self.rows]

    @property
    def hashes(self) -> Hashes | None:
        """The `difference_hash` of each picture; None unless all parts have them. `[samples, 4]`"""
        found = [part.hashes for part in self.parts]
        known = [hashes for hashes in found if hashes is not None]
        return np.concatenate([np.zeros((0, 4), np.uint64), *known])[self.rows] if len(known) == len(found) else None

    @property
    def splits(self) -> NDArray[np.int8]:
        """Index into `SPLITS` of each sample. `[samples]`"""
        return self._all_splits[self.rows]

    @property
    def caption_counts(self) -> NDArray[np.int64]:
        """Number of captions of each sample. `[samples]`"""
        counts = self._of_each_part(lambda part: np.diff(part.first_captions))
        for row, dropped in self._dropped.items():
            counts[row] -= len(dropped)
        return counts[self.rows]

    @property
    def text_bytes(self) -> NDArray[np.int64]:
        """Bytes of all captions of each sample, those that are left out included. `[samples]`"""
        return self._of_each_part(lambda part: np.diff(part.text_ends[part.first_captions]))[self.rows]

    @property
    def fingerprints(self) -> NDArray[np.void]:
        """`caption_fingerprints` of every caption that is used, in no particular order. `[captions]`"""
        return self._fingerprints(0, _BYTES)

    def sorted_fingerprints(self, at_once: int = 1_000_000) -> Iterator[NDArray[np.bytes_]]:
        """Yield `fingerprints` in the order of their bytes, about so many at a time. `[captions]`"""
        batches = 1 + int(self.caption_counts.sum()) // at_once
        bounds = np.linspace(0, _BYTES, min(batches, _BYTES) + 1).astype(int)
        for low, high in pairwise(bounds.tolist()):
            yield np.sort(self._fingerprints(low, high).view("S32"))

    def _fingerprints(self, low: int, high: int) -> NDArray[np.void]:
        """The fingerprints whose first byte is at least `low` and less than `high`. `[captions]`"""
        found = [np.zeros(0, "V32")]
        for part, _, used in self._used_captions():
            first = part.fingerprints.view(np.uint8)[:: part.fingerprints.itemsize]
            found.append(part.fingerprints[used & (first >= low) & (first < high)])
        return np.concatenate(found)

    def in_folder(self, name: str) -> NDArray[np.bool_]:
        """Which pictures have a name that begins with this folder, `[samples]`."""
        found = self._of_each_part(lambda part: flag_column(pc.starts_with(part.batch.column("image"), f"{name}/")))
        return found[self.rows].astype(bool)

    def captions_where(self, condition: Callable[[Part], NDArray[np.bool_]]) -> Iterator[tuple[int, int]]:
        """Yield the captions for which a condition holds, as the sample's index and the number of its caption.

        Args:
            condition: says of each caption of a part whether it holds, `[captions]`.
        """
        order = np.argsort(self.rows)
        for part, first, used in self._used_captions():
            captions = np.flatnonzero(used & condition(part))
            rows = np.searchsorted(part.first_captions, captions, side="right") - 1
            before = np.concatenate([[0], np.cumsum(used)])  # number of used captions before each one
            numbers = before[captions] - before[part.first_captions[rows]]
            indices = order[np.searchsorted(self.rows, first + rows, sorter=order)]
            yield from zip(indices.tolist(), numbers.tolist(), strict=True)

    def caption_kinds(self) -> Counter[tuple[str, str]]:
        """Number of captions by language and prompt, in order of their first appearance in the parts."""
        counts: Counter[tuple[str, str]] = Counter()
        for part, _, used in self._used_captions():
            codes = part.language_codes[used].astype(np.int64) * len(part.prompts) + part.prompt_codes[used]
            kinds, places, numbers = np.unique(codes, return_index=True, return_counts=True)
            for each in np.argsort(places):
                language, prompt = divmod(int(kinds[each]), len(part.prompts))
                counts[part.languages[language], part.prompts[prompt]] += int(numbers[each])
        return counts

    def __add__(self, other: "Samples") -> "Samples":
        """The samples of both, one after the other."""
        behind = int(self._first[-1])
        both = Samples(
            [*self.parts, *other.parts],
            np.concatenate([self.rows, other.rows + behind]),
            np.concatenate([self._all_splits, other._all_splits]),
            {**self._dropped, **{row + behind: dropped for row, dropped in other._dropped.items()}},
        )
        both.left_out = added(self.left_out, other.left_out)
        return both

    def missing_pictures(self) -> Iterator[Path]:
        """Yield the file of each picture whose file does not exist."""
        is_there = lru_cache(16)(methodcaller("is_file"))  # the pictures of a shard follow each other
        for part, _, rows in self._chosen_rows():
            files = (file_of(part.location(row)) for row in rows.tolist())
            yield from (file for file in files if not is_there(file))

    def record_batches(self, root: Path) -> Iterator[pa.RecordBatch]:
        """Yield the samples, in the order of the parts, as record batches with paths relative to `root`.

        A batch holds samples of one part.
        """
        for part, first, rows in self._chosen_rows():
            if part.root == root and not self._dropping_rows(part, first):
                yield part.chosen(rows, self._all_splits[first + rows])
            else:
                samples = [self._sample(first + row) for row in rows.tolist()]
                places = [part.place(row) for row in rows.tolist()]
                facts = [part.facts(row)._replace(hash=None) for row in rows.tolist()]
                yield from record_batches(samples, root, [sample.split for sample in samples], places, facts)

    def _chosen_rows(self) -> Iterator[tuple[Part, int, Rows]]:
        """Yield each part that has any of the samples, the number of its first row, and their rows in it, in order."""
        rows = np.sort(self.rows)
        for part, first in zip(self.parts, self._starts, strict=True):
            start, end = np.searchsorted(rows, [first, first + len(part)])
            if end > start:
                yield part, first, rows[start:end] - first
                part.forget_pages()

    def _used_captions(self) -> Iterator[tuple[Part, int, NDArray[np.bool_]]]:
        """Yield each part, the number of its first row, and which of its captions the samples have. `[captions]`"""
        chosen = np.zeros(self._first[-1], bool)
        chosen[self.rows] = True
        for part, first in zip(self.parts, self._starts, strict=True):
            used = np.repeat(chosen[first : first + len(part)], np.diff(part.first_captions))
            for row in self._dropping_rows(part, first):
                used[[part.first_captions[row - first] + number for number in self._dropped[row]]] = False
            yield part, first, used
            part.forget_pages()

    def _dropping_rows(self, part: Part, first: int) -> list[int]:
        """The rows of a part, numbered through all parts, that do not use all their captions."""
        start, end = np.searchsorted(self._dropping, [first, first + len(part)])
        return [int(row) for row in self._dropping[start:end]]

    def _of_each_part(self, values: Callable[[Part], NDArray[Any]], kind: Any = np.int64) -> NDArray[Any]:
        """What a function returns for each part, one value a row. `[rows of all parts]`"""
        found = np.empty(self._first[-1], kind)
        for part, first in zip(self.parts, self._starts, strict=True):
            found[first : first + len(part)] = values(part)
            part.forget_pages()
        return found


def as_samples(samples: Sequence[Sample]) -> Samples:
    """The samples as `Samples`; others than these are copied into parts in memory."""
    return samples if isinstance(samples, Samples) else Samples(parts_of(samples))
