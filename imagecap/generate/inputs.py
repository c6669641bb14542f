"""Which pictures a bulk job captions: a folder, a glob, a list, or a captions file."""

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from imagecap.data.image_folder import is_picture_name
from imagecap.errors import ImageCapError
from imagecap.files import natural_key, read_json

Picture = tuple[str, Path]


def pictures_of(source: str) -> list[Picture]:
    """Name and file of every picture, none twice, in a fixed order.

    A folder gives all pictures in it and below, named by their path in it; a pattern with `*`, `?` or `[` what it
    matches; a `.txt` file one path a line; a `.json` file the pictures of its rows (`image`), which lie in `images/`
    beside it or beside it. Whether a file can be read is seen when its turn comes.

    Raises:
        ImageCapError: there is no such thing, or no picture in it.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        found = list(_walk(path, path))
    elif any(sign in source for sign in "*?["):
        names = sorted(glob.glob(os.path.expanduser(source), recursive=True), key=natural_key)  # noqa: PTH111, PTH207
        found = [(name, Path(name)) for name in names if os.path.isfile(name) and is_picture_name(name)]  # noqa: PTH113
    elif path.suffix.lower() == ".json":
        found = _named_in(path)
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


def _named_in(path: Path) -> list[Picture]:
    rows = read_json(path)
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and isinstance(row.get("image"), str) for row in rows
    ):
        raise ImageCapError(f"{path} must hold a list of rows with `image`")
    below = path.parent / "images"
    folder = below if below.is_dir() else path.parent
    return [(row["image"], folder / row["image"]) for row in rows]


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ImageCapError(f"{path} cannot be read as a list of paths: {error}") from None
    return [line.strip() for line in text.splitlines() if line.strip()]
