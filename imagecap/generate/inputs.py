"""The pictures of a bulk job, given as a folder, a glob pattern, a list of paths, a captions file or one file."""

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from imagecap.data.picture_files import is_picture_name
from imagecap.errors import ImageCapError
from imagecap.files import natural_key, read_json

Picture = tuple[str, Path]  # name of the picture in results, path of its file


def pictures_of(source: str) -> list[Picture]:
    """Name and path of every picture, without duplicate names, in a fixed order.

    Args:
        source: one of these:

            - a folder: all pictures in it and in its subfolders, named by their relative paths;
            - a glob pattern with `*`, `?` or `[`: the pictures that it matches;
            - a `.txt` file: one path per line, relative to the folder of the file;
            - a `.json` file: a list of rows; the path in `image` is relative to the folder `images` beside the file,
              or to the folder of the file if there is no such folder;
            - any other file: this picture.

    The pictures are not opened: an unreadable file is found when it is captioned.

    Raises:
        ImageCapError: `source` does not exist, or has no pictures.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        found = list(_walk(path, path))
    elif any(character in source for character in "*?["):
        names = sorted(glob.glob(os.path.expanduser(source), recursive=True), key=natural_key)  # noqa: PTH111, PTH207
        found = [(name, Path(name)) for name in names if os.path.isfile(name) and is_picture_name(name)]  # noqa: PTH113
    elif path.suffix.lower() == ".json":
        found = _read_captions_file(path)
    elif path.suffix.lower() == ".txt":
        found = [(line, path.parent / line) for line in _lines(path)]
    elif path.is_file():
        found = [(path.name, path)]
    else:
        raise ImageCapError(
            f"{source} is neither a folder, a pattern, a list (.txt), a captions file (.json) nor a file"
        )
    found = list(dict(found).items())
    if not found:
        raise ImageCapError(f"there is no picture in {source}")
    return found


def _walk(folder: Path, root: Path) -> Iterator[Picture]:
    """Pictures in a folder and its subfolders, in natural order; hidden files and linked folders are left out."""
    try:
        entries = {
            entry.name: entry.is_dir(follow_symlinks=False)
            for entry in os.scandir(folder)
            if not entry.name.startswith(".")
        }
    except OSError as error:
        raise ImageCapError(f"the folder {folder} cannot be read: {error.strerror}") from None
    for name in sorted(entries, key=natural_key):
        if entries[name]:
            yield from _walk(folder / name, root)
        elif is_picture_name(name):
            yield (folder / name).relative_to(root).as_posix(), folder / name


def _read_captions_file(path: Path) -> list[Picture]:
    rows = read_json(path)
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and isinstance(row.get("image"), str) for row in rows
    ):
        raise ImageCapError(f"{path} must hold a list of rows with `image`")
    images = path.parent / "images"
    folder = images if images.is_dir() else path.parent
    return [(row["image"], folder / row["image"]) for row in rows]


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ImageCapError(f"{path} cannot be read as a list of paths: {error}") from None
    return [line.strip() for line in text.splitlines() if line.strip()]
