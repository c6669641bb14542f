"""The folders of img2dataset (https://github.com/rom1504/img2dataset), which DataComp and LAION are downloaded with."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from imagecap.config import DataSettings
from imagecap.data.captions_file import RawRow
from imagecap.data.folders import subfolders, walk
from imagecap.data.formats.caption_records import (
    JSON_ENDING,
    TEXT_ENDINGS,
    CaptionRecords,
    RecordError,
    is_of_img2dataset,
)
from imagecap.data.formats.columns import chosen_captions
from imagecap.data.formats.data_format import DataFormat
from imagecap.data.picture_files import is_picture_name
from imagecap.data.records import Problem
from imagecap.printable import printable


class Img2Dataset(DataFormat):
    """Folders `00000` with `000000000.jpg`, `.txt` and `.json`, beside `00000.parquet`, which is not read.

    Folders that hold tar archives of the same are of the format `webdataset`.
    """

    name = "img2dataset"

    def files(self, folder: Path) -> list[Path]:
        return [folder] if any(map(_is_of_img2dataset, _numbered(folder)[:1])) else []

    def picture_folders(self, file: Path, folder: Path) -> list[Path]:
        return [file]

    def rows(self, file: Path, folders: Sequence[Path], settings: DataSettings) -> Iterator[RawRow | Problem]:
        records = CaptionRecords(settings)
        texts = {JSON_ENDING, *TEXT_ENDINGS, *chosen_captions(settings)}
        for folder in _numbered(file):
            for key, names in _names_by_key(folder).items():
                place = printable(f"{folder.name}/{key}")
                try:
                    contents = {each: (folder / name).read_bytes() for each, name in names.items() if each in texts}
                    pictures = [name for name in names.values() if is_picture_name(name)]
                    values = records.rows(place, contents)
                    if values and len(pictures) != 1:
                        raise RecordError(f"there are {len(pictures)} pictures of this key; there must be one")
                    for value in values:
                        yield RawRow(place, {**value, "image": printable(f"{folder.name}/{pictures[0]}")})
                except OSError as error:
                    yield Problem(None, None, f"a file cannot be read: {error.strerror}", place=place)
                except RecordError as error:
                    yield Problem(None, None, printable(str(error)), place=place)
        yield from records.problems(file.name)


def _numbered(folder: Path) -> list[Path]:
    return [sub for sub in subfolders(folder) if sub.name.isdecimal()]


def _names_by_key(folder: Path) -> dict[str, dict[str, str]]:
    """The names of the files in a folder by key and ending, in natural order."""
    _, names = next(walk(folder))
    found: dict[str, dict[str, str]] = {}
    for name in names:
        key, _, ending = name.partition(".")
        if ending:
            found.setdefault(key, {})[ending.lower()] = name
    return found


def _is_of_img2dataset(folder: Path) -> bool:
    """Whether the first JSON file of a folder beside which a picture lies is one of img2dataset."""
    for names in _names_by_key(folder).values():
        if JSON_ENDING in names and any(map(is_picture_name, names.values())):
            try:
                return is_of_img2dataset((folder / names[JSON_ENDING]).read_bytes())
            except OSError:
                return False
    return False
