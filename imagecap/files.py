"""File helpers: writes that a crash cannot leave half done, reading JSON, natural order of names."""

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from imagecap.errors import ImageCapError
from imagecap.staging import NEW, OLD, clear_leftovers, staged


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; at the end it is synced and renamed, after an exception it is removed.

    The folder is made if it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(path)
    with staged(path, NEW, folder=False) as temporary, temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes it private
        temporary.replace(path)


def atomic_write_bytes(path: Path, content: bytes) -> None:
    """Write to a temporary name beside `path`, sync, rename. The folder is made if it is missing."""
    with atomic_writer(path) as file:
        file.write(content)


def atomic_write_text(path: Path, content: str) -> None:
    """Write `content` as UTF-8; see `atomic_write_bytes`."""
    atomic_write_bytes(path, content.encode("utf-8"))


def atomic_write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON with a final newline, characters kept as they are."""
    atomic_write_text(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        ImageCapError: it is missing, or not JSON; says where.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ImageCapError(f"{path} does not exist") from None
    except OSError as error:
        raise ImageCapError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ImageCapError(f"{path} is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise ImageCapError(f"{path} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None


def replace_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a new folder, then put it in the place of `path`.

    A reader sees the old folder, for an instant none, then the new one: never a mixture.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(path)
    with staged(path, NEW, folder=True) as temporary:
        write(temporary)
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
                file.chmod(0o666 & ~_umask())  # some libraries write files that only their owner may read
        temporary.chmod(0o777 & ~_umask())
        if not path.exists():
            temporary.rename(path)
            return
        with staged(path, OLD, folder=True) as aside:
            path.rename(aside / "old")
            temporary.rename(path)


def require_writable(folder: Path) -> None:
    """Check that files can be written in a folder, or that it can be made. Nothing is made.

    Raises:
        ImageCapError: it is not so; says why.
    """
    try:
        place = folder.absolute()
        while not place.exists():
            place = place.parent
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise ImageCapError(
            f"nothing can be written in {folder} ({error.strerror}): choose another folder, or change its permissions"
        ) from None


def natural_key(name: str) -> tuple[list[int | str], str]:
    """Sort key that puts `picture2` before `picture10`, and capitals beside small letters.

    Runs of decimal digits, of any script, compare as numbers. Other numerals (`①`, `²`) are ordinary characters.
    """
    # re.split puts the captured runs of digits at the odd places
    parts = re.split(r"(\d+)", name)
    return [int(part) if place % 2 else part.casefold() for place, part in enumerate(parts)], name


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
