"""Tables of captions: CSV, TSV, JSON Lines and Parquet, with the columns of captions.json or of other names."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from imagecap.config import DataSettings
from imagecap.data.captions_file import RawRow
from imagecap.data.folders import subfolders
from imagecap.data.formats.columns import CAPTION_NAMES, IMAGE_NAMES, Columns, image_column_of
from imagecap.data.formats.data_format import DataFormat
from imagecap.data.formats.parquet import holds_pictures
from imagecap.data.locations import Location
from imagecap.data.records import Problem
from imagecap.data.splits import split_named
from imagecap.data.table_files import ENDINGS, read_table
from imagecap.data.text_files import first_line


class Table(DataFormat):
    """`captions.csv`, `.tsv`, `.jsonl` or `.parquet`, or Kaggle's `captions.txt`, which is a CSV file."""

    name = "table"

    def files(self, folder: Path) -> list[Path]:
        named = [folder / f"captions{ending}" for ending in ENDINGS]
        kaggle = folder / "captions.txt"
        columns = {column.strip().lower() for column in re.split(r"[,;\t|]", first_line(kaggle))}
        is_table = columns & {*IMAGE_NAMES} and columns & {*CAPTION_NAMES}
        tables = [file for file in named if file.is_file() and not (file.suffix == ".parquet" and holds_pictures(file))]
        return [*tables, *([kaggle] if is_table else [])]

    def rows(self, file: Path, folders: Sequence[Path], settings: DataSettings) -> Iterator[RawRow | Problem]:
        columns: Columns | None = None
        for number, row in enumerate(read_table(file), 1):
            place = f"row {number}"
            if not isinstance(row, dict):
                yield RawRow(place, row)
                continue
            if None in row:
                yield Problem(None, None, "the row has more fields than the heading", place=place)
                continue
            if columns is None:
                columns = Columns(file, list(row), settings)
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
