"""Sidecar text: the captions of a picture lie beside it in a file of the same stem, as taggers and kohya write them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from imagecap.config import DataSettings
from imagecap.data.captions_file import RawRow
from imagecap.data.folders import walk
from imagecap.data.formats.data_format import DataFormat
from imagecap.data.picture_files import is_picture_name
from imagecap.data.records import Problem
from imagecap.data.splits import split_named
from imagecap.data.text_files import text_lines
from imagecap.errors import ImageCapError
from imagecap.printable import printable

_ENDINGS = (".txt", ".caption")
_TAGS = 4  # a caption with this many commas and no word between most of them is a list of tags


class Sidecar(DataFormat):
    """`a.jpg` and `a.txt` or `a.caption`: the first line is the caption.

    Folders `train`, `validation` and `test` at the top are the splits. Pictures without text are left out.
    """

    name = "sidecar"

    def files(self, folder: Path) -> list[Path]:
        try:
            return [folder] if any(text for _, text in _pictures(folder)) else []
        except ImageCapError:  # a subfolder that may not be read, in a folder that need not be of this format
            return []

    def picture_folders(self, file: Path, folder: Path) -> list[Path]:
        return [file]

    def rows(self, file: Path, folders: Sequence[Path], settings: DataSettings) -> Iterator[RawRow | Problem]:
        without = further = tags = count = 0
        for picture, text in _pictures(file):
            if text is None:
                without += 1
                continue
            place = printable(text.relative_to(file).as_posix())
            try:
                lines = [line.strip() for line in text_lines(text) if line.strip()]
            except ImageCapError:
                yield Problem(None, None, "the file cannot be read as UTF-8 text; save it as UTF-8", place=place)
                continue
            count += bool(lines)
            further += len(lines) > 1
            caption = lines[0] if lines else ""
            tags += _looks_like_tags(caption)
            name = picture.relative_to(file).as_posix()
            split = split_named(name.partition("/")[0]) if "/" in name else None
            yield RawRow(place, {"image": printable(name), "caption": caption, **({"split": split} if split else {})})
        for number, what in (
            (without, "pictures have no text file beside them and are left out"),
            (further, "text files have further lines, of which only the first is used"),
        ):
            if number:
                yield Problem(None, None, f"{number} {what}", "warning")
        if count and 2 * tags > count:
            yield Problem(None, None, f"{tags} of {count} captions look like lists of tags", "warning")


def _pictures(folder: Path) -> Iterator[tuple[Path, Path | None]]:
    """Yield every picture below a folder with its text file; None if it has none."""
    for place, names in walk(folder):
        there = set(names)
        for picture in filter(is_picture_name, map(Path, names)):
            texts = (picture.with_suffix(ending).name for ending in _ENDINGS)
            text = next((name for name in texts if name in there), None)
            yield place / picture, place / text if text is not None else None


def _looks_like_tags(caption: str) -> bool:
    parts = [part.strip() for part in caption.split(",")]
    return len(parts) > _TAGS and sum(len(part.split()) <= 3 for part in parts) == len(parts)
