"""What a queue is made from: a data folder with captions.json, a folder of pictures, or a captions file."""

import hashlib
import json
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagecap.config import DataSettings
from imagecap.data.captions_file import CAPTIONS_FILE, RawRow, load_rows
from imagecap.data.folders import walk
from imagecap.data.formats import FORMATS, find_source
from imagecap.data.formats.captions import Captions
from imagecap.data.formats.sidecar import Sidecar
from imagecap.data.images import PictureError
from imagecap.data.picture_files import PictureFinder, is_picture_name
from imagecap.data.records import Problem
from imagecap.errors import ImageCapError
from imagecap.languages import Language, language_named
from imagecap.printable import printable

Row = dict[str, Any]


@dataclass(frozen=True)
class CorrectionSource:
    """Where captions are read from and written to.

    Attributes:
        place: the folder or file that the user named, absolute.
        pictures: the folder of the pictures.
        captions_file: the captions file; None: the captions are text files beside the pictures.
    """

    place: Path
    pictures: Path
    captions_file: Path | None

    @property
    def finder(self) -> PictureFinder:
        """Looks up the pictures by their names, and never outside their folder."""
        return PictureFinder(self.pictures)

    def rows(self) -> list[Row]:
        """Read the rows of captions, in the columns of captions.json. Captions may be empty.

        Raises:
            ImageCapError: the file cannot be read, or a row names no picture (names the row).
        """
        if self.captions_file is not None:
            found = load_rows(self.captions_file) if self.captions_file.exists() else []
            return [_checked(self.captions_file, number, row) for number, row in enumerate(found, 1)]
        rows = FORMATS[Sidecar.name].rows(self.pictures, [self.pictures], DataSettings())
        return [row.value for row in rows if isinstance(row, RawRow) and not isinstance(row, Problem)]

    def without_captions(self, rows: Sequence[Row]) -> list[str]:
        """The names of the pictures in the folder that no row names, by folders and in natural order in each.

        Raises:
            ImageCapError: the folder of the pictures cannot be read.
        """
        named = {_form(row["image"]) for row in rows}
        found: list[str] = []
        for place, names in walk(self.pictures):
            below = "" if place == self.pictures else f"{place.relative_to(self.pictures).as_posix()}/"
            pictures = (printable(below + name) for name in names if is_picture_name(name))
            found += [name for name in pictures if _form(name) not in named]
        return found


def find_correction_source(place: Path) -> CorrectionSource:
    """Recognise what the user wants to correct.

    Args:
        place: a data folder with captions.json and `images/`, a folder of pictures with or without text files beside
            them, or a captions file with the rows of captions.json, whose pictures are in `images/` beside it or in
            its folder.

    Raises:
        ImageCapError: it does not exist, or has another format (says how to change it).
    """
    place = place.absolute()
    if place.is_file():
        if place.suffix.lower() != ".json":
            raise ImageCapError(f"{place} cannot be corrected: name a folder of pictures, or a captions.json")
        images = place.parent / "images"
        return CorrectionSource(place, images if images.is_dir() else place.parent, place)
    if not place.is_dir():
        raise ImageCapError(f"{place} does not exist; name a folder of pictures, or a captions.json")
    found = find_source(place, DataSettings())
    if found is not None and found.format.name not in (Captions.name, Sidecar.name):
        raise ImageCapError(
            f"{place} has captions in the format {found.format.name}, which cannot be written back: make a copy with "
            f"`python run.py export {place} FOLDER --format captions` and correct that"
        )
    images = place / "images"
    if found is not None and found.format.name == Captions.name:
        if not images.is_dir():
            raise ImageCapError(f"{images} is missing; the pictures that {CAPTIONS_FILE} names lie in it")
        return CorrectionSource(place, images, place / CAPTIONS_FILE)
    if found is None and images.is_dir():
        return CorrectionSource(place, images, place / CAPTIONS_FILE)
    return CorrectionSource(place, place, None)


def language_of_row(row: Row) -> Language | None:
    """The language that a row names; None if it names none that is known."""
    named = row.get("language")
    return language_named(named) if isinstance(named, str) and named else None


def caption_of_row(row: Row) -> str:
    """The caption of a row; empty if it has none."""
    caption = row.get("caption")
    return caption if isinstance(caption, str) else ""


def digest_of_rows(rows: Iterator[Row] | Sequence[Row]) -> str:
    """A digest of rows in their order, by which the file that was exported last is recognised."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def picture_at(finder: PictureFinder, name: str) -> Path:
    """The file of a picture.

    Raises:
        ImageCapError: there is no such file, or it lies outside the folder of the pictures.
    """
    try:
        return finder.find(name)
    except PictureError as error:
        raise ImageCapError(f"{name} {error.reason}") from None


def _checked(file: Path, number: int, row: Any) -> Row:
    if not isinstance(row, dict) or not isinstance(row.get("image"), str) or not row["image"]:
        raise ImageCapError(f"{file}: row {number} names no picture; give it `image`, the name of a file")
    caption = row.get("caption")
    if caption is not None and not isinstance(caption, str):
        raise ImageCapError(f"{file}: row {number} ({printable(row['image'])}): `caption` must be text")
    return row


def _form(name: str) -> str:
    """A name of a picture in the form in which names are compared."""
    parts = (part for part in printable(name).split("/") if part not in ("", "."))
    return unicodedata.normalize("NFC", "/".join(parts))
