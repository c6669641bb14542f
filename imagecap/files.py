"""File helpers: writes that a crash cannot leave half done, reading JSON, natural order of names."""

import errno
import json
import os
import re
import stat
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from imagecap.errors import ImageCapError
from imagecap.printable import printable
from imagecap.staging import NEW, OLD, clear_leftovers, clear_leftovers_once, staged

_SYNCED_AT_ONCE = 8  # files; a disk writes several together


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; at the end it is synced and renamed, after an exception it is removed.

    The folder is made if it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers_once(path)
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
    r"""Write `content` as UTF-8, lone surrogates as `\udNNN`; see `atomic_write_bytes`."""
    atomic_write_bytes(path, content.encode("utf-8", "backslashreplace"))  # in JSON an escape of the same character


def atomic_write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON with a final newline, characters kept as they are; the text is never whole.

    A value of an object may be a sequence other than a list, whose rows are made one at a time while they are written.
    """
    with atomic_writer(path) as file:
        for part in _json_parts(content):
            file.write(part.encode("utf-8", "backslashreplace"))
        file.write(b"\n")


def _json_parts(content: Any) -> Iterator[str]:
    encoder = json.JSONEncoder(ensure_ascii=False, indent=2)
    if not isinstance(content, dict) or not any(map(_is_made_row_by_row, content.values())):
        yield from encoder.iterencode(content)
        return
    separator = "{\n  "
    for key, value in content.items():
        yield f"{separator}{encoder.encode(key)}: "
        separator = ",\n  "
        if not _is_made_row_by_row(value):
            yield encoder.encode(value).replace("\n", "\n  ")
            continue
        before = "["
        for row in value:
            yield before + "\n    " + encoder.encode(row).replace("\n", "\n    ")
            before = ","
        yield "\n  ]" if len(value) else "[]"
    yield "\n}"


def _is_made_row_by_row(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | list | tuple)


class RepeatedKey(dict[str, Any]):
    """A JSON object with a key that it holds twice, `repeated`. Its values are the last ones."""

    repeated: str


def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a JSON file, for `object_pairs_hook`: a `RepeatedKey` if it or an object in it holds a key twice."""
    found = dict(pairs)
    inner = next((value.repeated for value in found.values() if isinstance(value, RepeatedKey)), None)
    if len(found) == len(pairs) and inner is None:
        return found
    marked = RepeatedKey(found)
    marked.repeated = inner or Counter(key for key, _ in pairs).most_common(1)[0][0]
    return marked


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        ImageCapError: it is missing, or not JSON, or an object in it holds a key twice; says where.
    """
    return parse_json(read_text(path), path)


def parse_json(text: str, path: Path, first_line: int = 1) -> Any:
    """Parse JSON text that was read from `path`, from the line `first_line` on; see `read_json`."""
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        line = error.lineno + first_line - 1
        raise ImageCapError(f"{path} is not JSON: line {line}, column {error.colno}: {error.msg}") from None
    except _KeyTwiceError as error:
        raise ImageCapError(f"{path} holds the key {str(error)!r} twice in one object: remove one of them") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets thousands deep
        raise ImageCapError(f"{path} cannot be read as JSON: {error}") from None


def read_text(path: Path) -> str:
    """Read a UTF-8 text file, with or without a byte order mark.

    Raises:
        ImageCapError: it is missing, cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ImageCapError(f"{path} does not exist") from None
    except OSError as error:
        raise ImageCapError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ImageCapError(f"{path} is not UTF-8 text") from None


def user_cache_folder() -> Path:
    """The folder for what can be made anew: `$XDG_CACHE_HOME/imagecap`, or `~/.cache/imagecap`. It may not exist yet.

    Raises:
        RuntimeError: the user has no home folder.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imagecap"


class _KeyTwiceError(Exception):
    """An object holds the key of this name twice."""


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = object_of(pairs)
    if isinstance(found, RepeatedKey):
        raise _KeyTwiceError(found.repeated)
    return found


def replace_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a new folder, then put it in the place of `path`.

    A reader sees the old folder, for an instant none, then the new one: never a mixture.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(path)
    with staged(path, NEW, folder=True) as temporary:
        write(temporary)
        files = [file for file in temporary.rglob("*") if file.is_file()]
        with ThreadPoolExecutor(_SYNCED_AT_ONCE) as threads:
            deque(threads.map(_sync, files), maxlen=0)
        for file in files:
            file.chmod(0o666 & ~_umask())  # some libraries write files that only their owner may read
        temporary.chmod(0o777 & ~_umask())
        if not path.exists():
            temporary.rename(path)
            return
        with staged(path, OLD, folder=True) as aside:
            path.rename(aside / "old")
            temporary.rename(path)


@contextmanager
def temporary_files_in(folder: Path) -> Iterator[Path]:
    """Let libraries, and processes that are started meanwhile, put temporary files into a new folder in `folder`.

    The system's folder for temporary files may be a small one in memory, and MLflow copies whole models there.

    Yields:
        The new folder. It is removed at the end, and after a kill by the next call.
    """
    place = folder.absolute() / "temporary"
    clear_leftovers(place)
    before, variable = tempfile.tempdir, os.environ.get("TMPDIR")
    with staged(place, NEW, folder=True) as temporary:
        tempfile.tempdir = os.environ["TMPDIR"] = str(temporary)
        try:
            yield temporary
        finally:
            tempfile.tempdir = before
            if variable is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = variable


def require_writable_file(file: Path) -> None:
    """Refuse a file, or new folder, that cannot be written, before the work that makes it. Nothing is written or made.

    What killed processes have left of their writes to `file` is removed.

    Raises:
        ImageCapError: `file` is a folder, no file can be made beside it (in the nearest folder that exists), or it is
            another user's and may not be replaced.
    """
    if file.is_dir():
        raise ImageCapError(f"{file} is a folder; give the name of a file to write")
    folder = file.absolute().parent
    place = folder
    try:
        while not os.path.lexists(place):
            place = place.parent
        handle, temporary = tempfile.mkstemp(NEW, f".{file.name}.", place)  # as `atomic_writer` does
        os.close(handle)
        Path(temporary).unlink()
        clear_leftovers(file)
        if file.exists():
            _require_replaceable(file)
    except OSError as error:
        where = "" if place == folder else f" in {place}"
        raise ImageCapError(
            f"{file} cannot be written: {(error.strerror or 'unknown').lower()}{where}; name another place, or make "
            "this one writable"
        ) from None


def _require_replaceable(file: Path) -> None:
    """Refuse another user's file in a folder such as /tmp, where only the owner of a file may replace it."""
    folder, ours = file.parent.stat(), os.geteuid()
    if folder.st_mode & stat.S_ISVTX and ours not in (0, folder.st_uid, file.lstat().st_uid):
        raise PermissionError(errno.EPERM, "it belongs to another user")


def expand_user(path: str | Path) -> Path:
    """The path with the home folder in place of `~`. It stays as it is where there is no such user or home folder."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  (Path.expanduser raises a RuntimeError then)


def require_utf8_path(path: Path) -> None:
    """Refuse the path of a model that is not UTF-8: safetensors and tokenizers can neither write nor read there.

    Raises:
        ImageCapError: it is not UTF-8.
    """
    if printable(str(path)) != str(path):
        raise ImageCapError(f"the path {path} is not UTF-8, which models need: rename the folder, or choose another")


def natural_key(name: str) -> str:
    """Sort key that puts `picture2` before `picture10`, and capitals beside small letters.

    Runs of decimal digits, of any script, compare as numbers. Other numerals (`①`, `²`) are ordinary characters. Keys
    of the parts of a path, joined by NUL, compare as the list of them does.
    """
    # re.split puts the captured runs of digits at the odd places. NUL, which no name holds, ends a text; the number of
    # its digits stands before a number. A string takes less memory than a tuple of texts and numbers.
    parts = re.split(r"(\d+)", name)
    return (
        "".join(_digits(part) if place % 2 else f"{part.casefold()}\0" for place, part in enumerate(parts))
        + f"\0{name}"
    )


def _digits(text: str) -> str:
    digits = str(int(text))
    return chr(len(digits)) + digits


def _sync(file: Path) -> None:
    """Wait until a file is on the disk."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
