"""Tables of captions: CSV, TSV, JSON Lines and Parquet, with the columns of captions.json or of other names."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from imagecap.config import DataSettings
from imagecap.data.captions_file import RawRow
from imagecap.data.folders import subfolders
from imagecap.data.formats.data_format import DataFormat
from imagecap.data.locations import Location
from imagecap.data.records import Problem
from imagecap.data.splits import split_named
from imagecap.data.table_files import ENDINGS, read_table
from imagecap.data.text_files import first_line
from imagecap.errors import ImageCapError

_IMAGE_NAMES = ("image", "file_name", "filename", "image_name", "image_path", "path", "filepath", "img")
_CAPTION_NAMES = ("caption", "text", "sentence", "captions", "sentences", "comment", "description", "raw")
_NUMBERED_CAPTION = re.compile(r"(?:caption|text|sentence|comment)s?_?\d+$")


class Table(DataFormat):
    """`captions.csv`, `.tsv`, `.jsonl` or `.parquet`, or Kaggle's `captions.txt`, which is a CSV file."""

    name = "table"

    def files(self, folder: Path) -> list[Path]:
        named = [folder / f"captions{ending}" for ending in ENDINGS]
        kaggle = folder / "captions.txt"
        columns = {column.strip().lower() for column in re.split(r"[,;\t|]", first_line(kaggle))}
        is_table = columns & {*_IMAGE_NAMES} and columns & {*_CAPTION_NAMES}
        return [*(file for file in named if file.is_file()), *([kaggle] if is_table else [])]

    def rows(self, file: Path, folders: Sequence[Path], settings: DataSettings) -> Iterator[RawRow | Problem]:
        columns: _Columns | None = None
        for number, row in enumerate(read_table(file), 1):
            place = f"row {number}"
            if not isinstance(row, dict):
                yield RawRow(place, row)
                continue
            if None in row:
                yield Problem(None, None, "the row has more fields than the heading", place=place)
                continue
            if columns is None:
                columns = _Columns(file, row, settings)
                if isinstance(row.get(columns.image), dict):
                    raise ImageCapError(
                        f"{file} holds the pictures themselves in its column {columns.image!r}; a table must name "
                        "picture files"
                    )
            yield from (RawRow(place, values) for values in columns.of(row))

    def pictures(
        self, file: Path, folders: Sequence[Path], settings: DataSettings
    ) -> Iterator[tuple[str, Location | None]]:
        column: str | None = None
        for row in read_table(file):
            if isinstance(row, dict):
                column = column or image_column_of(file, list(row), settings)
                if isinstance(row.get(column), str):
                    yield row[column], None


class ImageFolder(Table):
    """Hugging Face's imagefolder: `metadata.csv`, `.jsonl` or `.parquet` with `file_name`, at the top or in each split.

    The folders `train`, `validation` and `test` are the splits.
    """

    name = "imagefolder"

    def files(self, folder: Path) -> list[Path]:
        splits = [sub for sub in subfolders(folder) if split_named(sub.name)]
        files = (place / f"metadata{ending}" for place in (folder, *splits) for ending in ENDINGS)
        return [file for file in files if file.is_file()]

    def picture_folders(self, file: Path, folder: Path) -> list[Path]:
        return [file.parent]

    def rows(self, file: Path, folders: Sequence[Path], settings: DataSettings) -> Iterator[RawRow | Problem]:
        of_folder = split_named(file.parent.name)
        for row in super().rows(file, folders, settings):
            if isinstance(row, RawRow) and isinstance(row.value, dict) and not row.value.get("split"):
                name = row.value.get("image")
                first = name.partition("/")[0] if isinstance(name, str) and "/" in name else ""
                split = of_folder or split_named(first)
                if split:
                    row = RawRow(row.place, {**row.value, "split": split})
            yield row


class _Columns:
    """Which columns of a table hold the picture and the captions, found by name in its first row."""

    def __init__(self, file: Path, row: Mapping[str, Any], settings: DataSettings) -> None:
        names = list(row)
        self.file = file
        self.image = image_column_of(file, names, settings)
        self.captions = self._captions(names, settings)

    def of(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The rows of captions.json that a row of the table stands for: one per caption."""
        used = {self.image, *self.captions}
        further = {name: value for name, value in row.items() if name not in used}
        image = {"image": row[self.image]} if self.image in row else {}
        written = [row.get(name) for name in self.captions]
        # empty cells beside filled ones are captions that the picture does not have
        filled = [value for value in written if value not in (None, "", [])] or written[:1]
        for value in filled:
            for caption in value if isinstance(value, list) else [value]:
                yield {**image, "caption": caption, **further}

    def _captions(self, names: Sequence[str], settings: DataSettings) -> list[str]:
        if settings.caption_columns is not None:
            chosen = [name.strip() for name in settings.caption_columns.split(",") if name.strip()]
            for name in chosen:
                _require(self.file, name, names, "caption_columns")
            return chosen
        one = next(([name] for name in _CAPTION_NAMES if name in names), [])
        found = one or [name for name in names if _NUMBERED_CAPTION.match(name.lower())]
        if not found:
            raise ImageCapError(
                f"{self.file} has no column with captions; name one or several, parted by commas, by caption_columns "
                f"(the columns are {_listed(names)})"
            )
        return found


def image_column_of(file: Path, names: Sequence[str], settings: DataSettings) -> str:
    """The column of a table with the names of pictures.

    Args:
        file: the table.
        names: of its columns.
        settings: `image_column` is used.

    Raises:
        ImageCapError: there is no such column.
    """
    if settings.image_column is not None:
        _require(file, settings.image_column, names, "image_column")
        return settings.image_column
    found = next((name for name in _IMAGE_NAMES if name in names), None)
    if found is None:
        raise ImageCapError(
            f"{file} has no column with the names of pictures; name it by image_column "
            f"(the columns are {_listed(names)})"
        )
    return found


def _require(file: Path, name: str, names: Sequence[str], setting: str) -> None:
    if name not in names:
        raise ImageCapError(f"{file} has no column {name!r}, which {setting} names ({_listed(names)})")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(str, names[:12]))
    return shown + (f" and {len(names) - 12} more" if len(names) > 12 else "")
