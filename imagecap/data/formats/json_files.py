"""Telling JSON captions files of several formats apart without parsing them, which takes long for large files."""

import mmap
from pathlib import Path

from imagecap.data.formats.data_format import DataFormat

_HEAD = 1 << 16  # bytes in which the keys of a list's first row are looked for


def json_kind(file: Path) -> str | None:
    """Name the format of a JSON file by its keys.

    Returns:
        "coco", "karpathy", "llava" or "captions"; None if the file has none of their keys, is empty, or cannot be read.
    """
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            head = content[:_HEAD]
            start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
            if start == b"[":
                if b'"conversations"' in head:
                    return "llava"
                return "captions" if b'"image"' in head and b'"caption"' in head else None
            if start != b"{" or content.find(b'"images"') < 0:
                return None
            if content.find(b'"sentences"') >= 0:
                return "karpathy"
            return "coco" if content.find(b'"annotations"') >= 0 and content.find(b'"caption"') >= 0 else None
    except (OSError, ValueError):  # an empty file cannot be mapped
        return None


class JsonFormat(DataFormat):
    """A format of JSON files, which lie in a folder or in its folder `annotations`, and are told by `json_kind`."""

    def files(self, folder: Path) -> list[Path]:
        places = [place for place in (folder, folder / "annotations") if place.is_dir()]
        return [file for place in places for file in sorted(place.glob("*.json")) if json_kind(file) == self.name]
