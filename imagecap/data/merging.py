"""Merging units into one data set: copies of a picture in several shards, names that occur twice, and splits."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imagecap.config import DataSettings
from imagecap.data.columns import hex_digests
from imagecap.data.parts import UNDECIDED, Part
from imagecap.data.records import SPLITS, Problem
from imagecap.data.samples import Rows, Samples
from imagecap.data.splits import splits_of
from imagecap.data.units import split_conflict


def merge(parts: Sequence[Part], settings: DataSettings, *, several: bool) -> tuple[Samples, list[Problem]]:
    """Make one data set of the samples of all units.

    Args:
        parts: of all units, in order.
        settings: the seed and the fractions of the split are used.
        several: whether there are several units. Each was looked through by itself.

    Returns:
        The samples, each in a split, and the problems that only show in all units together.
    """
    merger = _Merger(parts)
    if several:
        merger.leave_out_repeated_names()
        merger.compare_copies()
    return merger.samples(settings), merger.problems


class _Merger:
    def __init__(self, parts: Sequence[Part]) -> None:
        self.all = Samples(parts)
        self.parts, self.digests = parts, self.all.digests
        self.splits = self.all.splits.copy()
        self.gone = np.zeros(len(self.all), bool)
        self.dropped: dict[int, frozenset[int]] = {}
        self.problems: list[Problem] = []
        self._starts = np.cumsum([0, *(len(part) for part in parts)])

    def leave_out_repeated_names(self) -> None:
        """Results are by name, so that a name may not stand for two pictures."""
        names = pa.chunked_array([part.batch.column("image") for part in self.parts], pa.string())
        distinct = pc.count_distinct(names).as_py()
        for part in self.parts:
            part.forget_pages()
        if distinct == len(names):
            return
        first: dict[str, int] = {}
        for row, name in enumerate(names.to_pylist()):
            earlier = first.setdefault(name, row)
            if earlier != row:
                self.gone[row] = True
                self.problems.append(
                    Problem(
                        None, name, f"{self._place(earlier)} has a picture of the same name", place=self._place(row)
                    )
                )

    def compare_copies(self) -> None:
        """Put pictures of equal pixels into one split, and use a caption that several of them have once."""
        repeated, example = 0, ""
        for rows in self._copies():
            if self._conflict(rows):
                continue
            seen: dict[tuple[str, str, str], int] = {}
            for row in rows.tolist():
                captions = self.all[row].captions
                keys = [(caption.text, caption.prompt, caption.language) for caption in captions]
                dropped = frozenset(number for number, key in enumerate(keys) if seen.setdefault(key, row) != row)
                if dropped:
                    repeated += len(dropped)
                    example = example or f"{self._place(row)} repeats {self._place(seen[keys[min(dropped)]])}"
                    self.dropped[row] = dropped
                    self.gone[row] = len(dropped) == len(captions)
        if repeated:
            what = "1 caption repeats one" if repeated == 1 else f"{repeated} captions repeat some"
            message = f"{what} of another copy of the picture ({example}); each is used once"
            self.problems.append(Problem(None, None, message, "warning"))

    def samples(self, settings: DataSettings) -> Samples:
        """The samples that are left, with their splits."""
        undecided = np.flatnonzero(self.splits == UNDECIDED)
        self.splits[undecided] = splits_of(hex_digests(self.digests[undecided]), settings)
        return Samples(self.parts, np.flatnonzero(~self.gone), self.splits, self.dropped)

    def _copies(self) -> Iterator[Rows]:
        """Yield the rows of each picture that several rows have, in order."""
        order = np.argsort(self.digests, kind="stable")
        order = order[~self.gone[order]]
        equal = self.digests[order[1:]] == self.digests[order[:-1]]
        starts = np.flatnonzero(equal & ~np.concatenate([np.zeros(1, bool), equal])[: len(equal)])
        for start in starts.tolist():
            end = start + 1
            while end <= len(equal) and equal[end - 1]:
                end += 1
            yield order[start:end]

    def _conflict(self, rows: Rows) -> bool:
        """Give copies the split that one of them names. If they name two, leave all out and note the problem."""
        naming = [row for row in rows.tolist() if self.splits[row] != UNDECIDED]
        if not naming:
            return False
        splits = {int(self.splits[row]) for row in naming}
        if len(splits) > 1:
            later = next(row for row in naming if self.splits[row] != self.splits[naming[0]])
            earlier, found = (
                (self._image(row), self._place(row), SPLITS[self.splits[row]]) for row in (naming[0], later)
            )
            self.problems.append(split_conflict(earlier, found, None))
            self.gone[rows] = True
            return True
        self.splits[rows] = splits.pop()
        return False

    def _image(self, row: int) -> str:
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self.parts[part].image(row - int(self._starts[part]))

    def _place(self, row: int) -> str:
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self.parts[part].place(row - int(self._starts[part]))
