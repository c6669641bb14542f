"""Where the bytes of a picture lie: in a file of its own, in a range of an archive, or in a cell of a Parquet file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from threading import local
from typing import Any, NamedTuple, TypeAlias

from imagecap.data.remote import RemotePath, local_file, parquet_source
from imagecap.errors import ImageCapError, one_line


class ByteRange(NamedTuple):  # made and hashed quickly: there may be millions
    """A picture that is a range of bytes in a file, such as a member of a tar.

    Attributes:
        file: the archive; may be in a bucket.
        offset: of the first byte.
        length: in bytes.
    """

    file: Path
    offset: int
    length: int

    def __str__(self) -> str:
        return f"{self.file} (bytes {self.offset} to {self.offset + self.length})"


class ParquetCell(NamedTuple):
    """A picture in a Parquet file, in a column of bytes or of structs {bytes, path}.

    Attributes:
        file: the Parquet file; may be in a bucket.
        row: counted from 0 through all row groups.
        column: name of the column.
    """

    file: Path
    row: int
    column: str

    def __str__(self) -> str:
        return f"{self.file} (row {self.row + 1}, column {self.column})"


Location: TypeAlias = Path | ByteRange | ParquetCell


def file_of(location: Location) -> Path:
    """The file that holds the picture."""
    return location if isinstance(location, Path) else location.file


def position_of(location: Location) -> int:
    """Where in its file the picture begins; locations that are ordered by it are read from beginning to end."""
    if isinstance(location, Path):
        return 0
    return location.offset if isinstance(location, ByteRange) else location.row


def read_bytes(location: Location) -> bytes:
    """The bytes of a picture file; fewer than its length if the archive ends before.

    Raises:
        OSError: the file cannot be read.
        ImageCapError: a Parquet file is damaged or has changed, or a bucket cannot be read.
    """
    if isinstance(location, Path):
        return location.read_bytes()
    if isinstance(location, ByteRange):
        held = _held_open.get(location.file)
        if held is not None:
            return os.pread(held.descriptor, location.length, location.offset)
        place = local_file(location.file)
        if isinstance(place, RemotePath):
            return place.read_range(location.offset, location.length)
        descriptor = os.open(place, os.O_RDONLY)  # a file object of Python would take several times as long
        try:
            return os.pread(descriptor, location.length, location.offset)
        finally:
            os.close(descriptor)
    return _read_cell(location)


class _OpenFile:
    """A descriptor that is closed when the last thread that reads from it has let go of it."""

    def __init__(self, file: Path) -> None:
        self.descriptor = os.open(file, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):  # False where the file could not be opened
            os.close(self.descriptor)


_held_open: dict[Path, _OpenFile] = {}


@contextmanager
def held_open(archive: Path) -> Iterator[None]:
    """Keep an archive open while its pictures are read: opening it takes longer than reading a small picture.

    Raises:
        OSError: it cannot be opened.
    """
    place = local_file(archive)
    if isinstance(place, RemotePath):
        yield
        return
    _held_open[archive] = _OpenFile(place)
    try:
        yield
    finally:
        _held_open.pop(archive, None)


def as_file(location: Location, copy: Path) -> Path:
    """A file with the picture, for programs that read files only: its own, or else `copy`, which is written.

    Raises:
        OSError: a file cannot be read or written.
        ImageCapError: a Parquet file is damaged or has changed.
    """
    if isinstance(location, Path):
        return location
    copy.write_bytes(read_bytes(location))
    return copy


# A row group is decoded as a whole. The last one is kept by each thread, since pictures are mostly read in order.
_last_group = local()


def _read_cell(cell: ParquetCell) -> bytes:
    import pyarrow as pa

    try:
        version = (cell.file, _changed(cell.file))
        ends = _row_group_ends(*version)
        group = next((number for number, end in enumerate(ends) if cell.row < end), None)
        if group is None:
            raise ImageCapError(f"{cell.file} has no row {cell.row + 1} any more; read the data anew")
        key = (*version, cell.column, group)
        if getattr(_last_group, "key", None) != key:
            with _parquet_file(cell.file) as opened:
                _last_group.cells = opened.read_row_group(group, [cell.column]).column(0)
            _last_group.key = key
        value = _last_group.cells[cell.row - (ends[group - 1] if group else 0)].as_py()
    except pa.ArrowException as error:
        raise ImageCapError(f"{cell.file} cannot be read as Parquet: {one_line(error)}") from None
    content = value.get("bytes") if isinstance(value, dict) else value
    return content if isinstance(content, bytes) else b""


def _changed(file: Path) -> int | str:
    return file.version() if isinstance(file, RemotePath) else file.stat().st_mtime_ns


@lru_cache(64)
def _row_group_ends(file: Path, changed: int | str) -> tuple[int, ...]:
    """Number of the row after each row group. `changed` only tells apart the versions of a file."""
    ends: list[int] = []
    with _parquet_file(file) as opened:
        for group in range(opened.metadata.num_row_groups):
            ends.append((ends[-1] if ends else 0) + opened.metadata.row_group(group).num_rows)
    return tuple(ends)


@contextmanager
def _parquet_file(file: Path) -> Iterator[Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(parquet_source(file)) as opened:
        yield opened
