"""The files of captions that come with Flickr8k (Hodosh et al. 2013) and Flickr30k (Young et al. 2014)."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from imagecap.config import DataSettings
from imagecap.data.captions_file import RawRow
from imagecap.data.folders import subfolders
from imagecap.data.formats.data_format import DataFormat
from imagecap.data.records import Problem, Split
from imagecap.data.text_files import first_line, text_lines

_TOKEN_LINE = re.compile(r"([^\t#]+)#\d+\t(.*)")
_COPY = re.compile(r"\.\w+\.\d+$")  # 2258277193_586949ec62.jpg.1 is in Flickr8k's file and not among its pictures
_SPLITS: dict[str, Split] = {"train": "train", "dev": "validation", "test": "test"}
_HEADING = re.compile(r"image_name\|\s*comment_number\|\s*comment")


def is_token_file(file: Path) -> bool:
    """Whether a file begins with a line `NAME.jpg#0<TAB>caption`."""
    return _TOKEN_LINE.match(first_line(file)) is not None


def is_flickr30k(file: Path) -> bool:
    """Whether a file begins with the heading of Flickr30k's table."""
    return _HEADING.match(first_line(file)) is not None


class FlickrToken(DataFormat):
    """Lines `NAME.jpg#0<TAB>caption`. Splits are in `*.trainImages.txt`, `devImages` and `testImages`."""

    name = "flickr8k"

    def files(self, folder: Path) -> list[Path]:
        places = [folder, *(sub for sub in subfolders(folder) if "text" in sub.name.lower())]
        named = [file for place in places for file in sorted(place.glob("*token*"))]
        found = [file for file in named if is_token_file(file)]
        # Flickr8k has the same captions twice: as they were written, and lemmatised
        return [file for file in found if "lemma" not in file.name.lower()] or found

    def rows(self, file: Path, folders: Sequence[Path], settings: DataSettings) -> Iterator[RawRow | Problem]:
        splits = {
            line.strip(): split
            for part, split in _SPLITS.items()
            for listed in sorted(file.parent.glob(f"*.{part}Images.txt"))
            for line in text_lines(listed)
        }
        for number, line in enumerate(text_lines(file), 1):
            if not line.strip():
                continue
            place, found = f"line {number}", _TOKEN_LINE.match(line)
            if found is None:
                yield Problem(None, None, "the line must be NAME#NUMBER, a tab and a caption", place=place)
            elif _COPY.search(found[1]):
                yield Problem(None, found[1], "no picture has this name; the line is left out", "warning", place)
            else:
                split = {"split": splits[found[1]]} if found[1] in splits else {}
                yield RawRow(place, {"image": found[1], "caption": found[2], **split})


class Flickr30k(DataFormat):
    """Flickr30k's table `image_name| comment_number| comment`, in which one row lacks a delimiter."""

    name = "flickr30k"

    def files(self, folder: Path) -> list[Path]:
        return [file for file in sorted(folder.glob("*.csv")) if is_flickr30k(file)]

    def rows(self, file: Path, folders: Sequence[Path], settings: DataSettings) -> Iterator[RawRow | Problem]:
        for number, line in enumerate(text_lines(file), 1):
            if number == 1 or not line.strip():
                continue
            place = f"line {number}"
            name, _, rest = line.partition("|")
            # the delimiter between number and comment is missing once
            found = re.fullmatch(r"\s*\d+\s*(?:\||\s)\s*(.*)", rest)
            if found is None:
                yield Problem(None, None, "the line must be a name, a number and a comment, parted by |", place=place)
            else:
                yield RawRow(place, {"image": name.strip(), "caption": found[1]})
