"""The project's own format: captions.json, a list of rows, and the pictures in `images/`."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from imagecap.config import DataSettings
from imagecap.data.captions_file import CAPTIONS_FILE, RawRow, load_rows
from imagecap.data.formats.data_format import DataFormat
from imagecap.data.formats.json_files import json_kind
from imagecap.data.records import Problem


class Captions(DataFormat):
    """`captions.json` and `images/`. No other folder is searched for its pictures."""

    name = "captions"

    def files(self, folder: Path) -> list[Path]:
        file = folder / CAPTIONS_FILE
        # a captions.json that is broken or empty is of this format, so that its error is reported
        return [file] if file.exists() and json_kind(file) in (self.name, None) else []

    def picture_folders(self, file: Path, folder: Path) -> list[Path]:
        return [file.parent / "images"]

    def rows(self, file: Path, folders: Sequence[Path], settings: DataSettings) -> Iterator[RawRow | Problem]:
        for number, value in enumerate(load_rows(file), 1):
            yield RawRow(f"row {number}", value)
