"""Parquet files with the pictures inside, as the `datasets` library of Hugging Face writes and its Hub stores them."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagecap.config import DataSettings
from imagecap.data.captions_file import RawRow
from imagecap.data.formats.columns import IMAGE_NAMES, Columns
from imagecap.data.formats.shards import ShardFormat, shards_in
from imagecap.data.images import PictureError
from imagecap.data.locations import Location, ParquetCell
from imagecap.data.picture_files import PictureFinder, is_relative_name
from imagecap.data.records import Problem
from imagecap.data.remote import RemotePath
from imagecap.data.table_files import open_parquet, parquet_rows
from imagecap.errors import ImageCapError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_TABLES = ("captions", "metadata")  # names of tables of captions, whose pictures are files
_REQUESTS = 16  # files in a bucket that are asked at once
_LARGE_GROUP = 1 << 30  # bytes of a row group, which is in memory as a whole while a picture in it is read


class Parquet(ShardFormat):
    """`train-00000-of-00012.parquet` with a column of structs {bytes, path}, or of bytes, and columns of captions.

    Either field of the struct may be null. A path without bytes is that of a file beside the Parquet file.
    """

    name = "parquet"

    def files(self, folder: Path) -> list[Path]:
        found = shards_in(folder, "*.parquet", lambda file: not file.name.startswith("."))
        columns = dict(zip(found, _columns_of_each(found), strict=True))
        if any(columns.values()):  # one that cannot be read among shards is one of them, so that its error is reported
            return [file for file in found if columns[file] != []]
        return [file for file in found if columns[file] is None and file.stem not in _TABLES]

    def rows(self, file: Path, folders: Sequence[Path], settings: DataSettings) -> Iterator[RawRow | Problem]:
        with open_parquet(file) as opened:
            yield from _Shard(file, folders[0], opened, settings).rows()

    def pictures(
        self, file: Path, folders: Sequence[Path], settings: DataSettings
    ) -> Iterator[tuple[str, Location | None]]:
        with open_parquet(file) as opened:
            shard = _Shard(file, folders[0], opened, settings)
            for _, name, location, _ in shard.cells():
                if not isinstance(location, PictureError):
                    yield name, location


def picture_columns(schema: "pa.Schema") -> list[str]:
    """The columns that hold pictures by their types: structs of bytes and path, or else bytes."""
    import pyarrow.types as types

    def is_bytes(kind: "pa.DataType") -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))

    structs = [
        field.name
        for field in schema
        if types.is_struct(field.type) and any(part.name == "bytes" and is_bytes(part.type) for part in field.type)
    ]
    return structs or [field.name for field in schema if is_bytes(field.type)]


def holds_pictures(file: Path) -> bool:
    """Whether a Parquet file can be read and holds pictures. A table of captions may have a column of bytes too."""
    return bool(_columns_of(file))


def _columns_of_each(files: Sequence[Path]) -> list[list[str] | None]:
    """The columns of pictures in each file; see `_columns_of`."""
    if not any(isinstance(file, RemotePath) for file in files):
        return [_columns_of(file) for file in files]
    with ThreadPoolExecutor(_REQUESTS) as pool:
        return list(pool.map(_columns_of, files))


def _columns_of(file: Path) -> list[str] | None:
    """The columns of pictures in a file; None if it cannot be read."""
    try:
        with open_parquet(file) as opened:
            schema = opened.schema_arrow
    except ImageCapError:
        return None
    found = picture_columns(schema)
    names_files = any(name in schema.names and name not in found for name in IMAGE_NAMES)
    is_table = file.stem in _TABLES and names_files and all(_is_bytes_column(schema, name) for name in found)
    return [] if is_table else found


class _Shard:
    """One Parquet file that is read. Columns of pictures are not, but where their bytes may be null."""

    def __init__(self, file: Path, folder: Path, opened: "pq.ParquetFile", settings: DataSettings) -> None:
        self.file = file
        self.opened = opened
        self.settings = settings
        self.name = file.relative_to(folder).as_posix()
        self.schema = opened.schema_arrow
        self.finder = None if isinstance(file, RemotePath) else PictureFinder(file.parent)
        found = picture_columns(self.schema)
        self.column = self._picture_column(found)
        self.bytes = self.column
        self.path = ""
        if not _is_bytes_column(self.schema, self.column):
            parts = {part.name for part in self.schema.field(self.column).type}
            self.bytes = f"{self.column}.bytes"
            self.path = f"{self.column}.path" if "path" in parts else ""
        self.further = [name for name in self.schema.names if name not in found]
        self.named_by = next((name for name in IMAGE_NAMES if name in self.further), None)

    def rows(self) -> Iterator[RawRow | Problem]:
        """Yield the rows of captions, and a problem for each row without a picture."""
        columns = Columns(self.file, self.further, self.settings, self.column)
        for place, name, location, row in self.cells():
            if isinstance(location, PictureError):
                yield Problem(None, name or None, f"the picture {location.reason}", place=place)
                continue
            for value in columns.of({self.column: name, **row}):
                yield RawRow(place, value, location)
        largest = max((self._group(number).total_byte_size for number in range(self._groups)), default=0)
        if largest > _LARGE_GROUP:
            message = (
                f"{self.name} has row groups of {largest >> 20} MB, which are read as a whole; write it anew with "
                "row_group_size=100"
            )
            yield Problem(None, None, message, "warning")

    def cells(self) -> Iterator[tuple[str, str, Location | PictureError, dict[str, Any]]]:
        """Yield the place, picture's name, picture's location or what is wrong with it, and columns of each row."""
        number = 0
        for group in range(self._groups):
            with_bytes = self._with_bytes(group)
            columns = [*self.further, *([self.path] if self.path else [])]
            for row, has_bytes in zip(parquet_rows(self.file, self.opened, group, columns), with_bytes, strict=True):
                path = (row.pop(self.column, None) or {}).get("path")
                named = row.pop(self.named_by) if self.named_by else None
                number += 1
                location = ParquetCell(self.file, number - 1, self.column) if has_bytes else self._beside(path)
                yield f"row {number}", self._name(path or named, number), location, row

    @property
    def _groups(self) -> int:
        return int(self.opened.metadata.num_row_groups)

    def _group(self, number: int) -> "pq.RowGroupMetaData":
        return self.opened.metadata.row_group(number)

    def _picture_column(self, found: Sequence[str]) -> str:
        chosen = self.settings.image_column
        if chosen is not None:
            if chosen not in found:
                raise ImageCapError(
                    f"{self.file} has no pictures in a column {chosen!r}, which image_column names (they are in "
                    f"{', '.join(found)})"
                )
            return chosen
        usual = [name for name in found if name in IMAGE_NAMES] if len(found) > 1 else list(found)
        if len(usual) != 1:
            raise ImageCapError(
                f"{self.file} has {len(found)} columns with pictures ({', '.join(found)}); choose one by image_column"
            )
        return usual[0]

    def _with_bytes(self, group: int) -> Iterator[bool]:
        """Whether each row of a row group has bytes; the bytes are read only where the statistics do not tell."""
        metadata = self._group(group)
        leaves = (metadata.column(number) for number in range(metadata.num_columns))
        leaf = next(leaf for leaf in leaves if leaf.path_in_schema == self.bytes)
        statistics = leaf.statistics
        if statistics is not None and statistics.has_null_count and statistics.null_count in (0, metadata.num_rows):
            yield from [statistics.null_count == 0] * metadata.num_rows
            return
        for batch in self.opened.iter_batches(batch_size=64, row_groups=[group], columns=[self.bytes]):
            cells = batch.column(0)
            for cell in cells.field("bytes") if self.bytes != self.column else cells:
                yield cell.is_valid

    def _beside(self, path: Any) -> Location | PictureError:
        """The file beside the Parquet file that a path without bytes names."""
        if not isinstance(path, str) or not path:
            return PictureError("is missing: neither its bytes nor its path are given")
        if self.finder is None:
            return PictureError("has no bytes but the path of a file, and files are not read from buckets")
        try:
            return self.finder.find(path)
        except PictureError as error:
            return error

    def _name(self, written: Any, number: int) -> str:
        if not isinstance(written, str) or not written.strip():
            return f"{self.name}/{number}"
        if is_relative_name(written):
            return written
        return written.replace("\\", "/").rpartition("/")[2] or f"{self.name}/{number}"  # a path of somebody's machine


def _is_bytes_column(schema: "pa.Schema", column: str) -> bool:
    import pyarrow.types as types

    return not types.is_struct(schema.field(column).type)
