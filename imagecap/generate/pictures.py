"""The pictures of a bulk job by name and place, in little memory: a job may have millions."""

from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import TypeAlias, overload

from imagecap.data.locations import ByteRange, Location, ParquetCell, file_of
from imagecap.errors import ImageCapError
from imagecap.printable import printable

Picture: TypeAlias = tuple[str, Location]  # name of the picture in results, where it is

_IN_ROOT = -1  # the picture is the file of its name in the root folder


class _Numbered(Sequence[Picture]):
    """A sequence whose pictures are made when they are asked for, by their numbers."""

    @overload
    def __getitem__(self, index: int) -> Picture: ...
    @overload
    def __getitem__(self, index: slice) -> list[Picture]: ...
    def __getitem__(self, index: int | slice) -> Picture | list[Picture]:
        if isinstance(index, slice):
            return [self._picture(number) for number in range(*index.indices(len(self)))]
        return self._picture(index)

    @abstractmethod
    def _picture(self, index: int) -> Picture: ...


class Pictures(_Numbered):
    """Names and locations, in a fixed order and without duplicate names. Locations are made when they are asked for.

    Args:
        found: names and locations. A name that comes again with the same location is left out.
        root: a folder in which most pictures are files of their names.
        rename: give a name that comes again with another location the name of its file in front, and a number where
            that is taken as well. Pictures in shards often have the same names in every shard.

    Raises:
        ImageCapError: two files have the same name, and `rename` is false.
    """

    def __init__(self, found: Iterable[Picture], root: Path | None = None, *, rename: bool = False) -> None:
        self._root = root
        self._names: list[str] = []
        self._files: list[Path] = []  # the files that hold the pictures which are not in the root folder
        self._columns: list[str] = []
        self._file, self._column = array("i"), array("h")
        self._start, self._length = array("q"), array("q")  # offset and length, or row and -1, or -1 and -1 (a file)
        self._file_numbers: dict[Path, int] = {}
        numbers: dict[str, int] = {}
        for name, location in found:
            for free in _names_for(printable(name), location):
                there = numbers.setdefault(free, len(self._names))
                if there == len(self._names):
                    self._add(free, location)
                    break
                if self._location(there) == location:
                    break
                if not rename:
                    raise ImageCapError(f"two files would be called {free} in the results; rename one of them")
        self._file_numbers.clear()

    def __len__(self) -> int:
        return len(self._names)

    def _picture(self, index: int) -> Picture:
        return self._names[index], self._location(index)

    @property
    def names(self) -> Sequence[str]:
        """The names of the pictures."""
        return self._names

    def _add(self, name: str, location: Location) -> None:
        self._names.append(name)
        if isinstance(location, Path) and self._root is not None and location == self._root / name:
            self._append(_IN_ROOT, -1, -1, -1)
            return
        file = file_of(location)
        number = self._file_numbers.setdefault(file, len(self._files))
        if number == len(self._files):
            self._files.append(file)
        if isinstance(location, ByteRange):
            self._append(number, -1, location.offset, location.length)
        elif isinstance(location, ParquetCell):
            if location.column not in self._columns:
                self._columns.append(location.column)
            self._append(number, self._columns.index(location.column), location.row, -1)
        else:
            self._append(number, -1, -1, -1)

    def _append(self, file: int, column: int, start: int, length: int) -> None:
        self._file.append(file)
        self._column.append(column)
        self._start.append(start)
        self._length.append(length)

    def _location(self, index: int) -> Location:
        if self._file[index] == _IN_ROOT:
            assert self._root is not None
            return self._root / self._names[index]
        file = self._files[self._file[index]]
        if self._column[index] >= 0:
            return ParquetCell(file, self._start[index], self._columns[self._column[index]])
        return ByteRange(file, self._start[index], self._length[index]) if self._length[index] >= 0 else file


class Selected(_Numbered):
    """Some of the pictures of a sequence, by their numbers."""

    def __init__(self, pictures: Sequence[Picture], numbers: Iterable[int]) -> None:
        self._pictures = pictures
        self._numbers = array("q", numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def _picture(self, index: int) -> Picture:
        return self._pictures[self._numbers[index]]


def _names_for(name: str, location: Location) -> Iterator[str]:
    """Yield names for a picture until one is free: its own, then with its file in front, then with a number too."""
    yield name
    file = printable(file_of(location).stem)
    yield f"{file}/{name}"
    yield from (f"{file}-{number}/{name}" for number in count(2))
