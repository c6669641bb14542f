"""Listing the members of a tar archive with the ranges of their bytes, without unpacking it.

`tarfile` would take minutes for a million pictures (`python -m benchmarks.scale members`). So the headers of ordinary
members are read here, and `tarfile` reads from the first unusual header on.
"""

import mmap
import struct
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

from imagecap.data.remote import local_file
from imagecap.errors import ImageCapError

_BLOCK = 512
_ZEROS = bytes(_BLOCK)
_JOINED_BYTES = 1 << 16  # bytes after the end mark in which a second archive is looked for

# name, size, checksum, type, magic, prefix
_HEADER = struct.Struct("100s24x12s12x8sc100x8s80x155s12x")
_ADLER_BASE = 65521

_POSIX, _GNU = b"ustar\x0000", b"ustar  \0"
_MAGIC = (_POSIX, _GNU)
_FILES, _FOLDER = (b"0", b"\0"), b"5"
_LONG_NAME, _PAX = b"L", b"x"  # a header that is extended by its content, which is of the next header
_EXTENDED = (_LONG_NAME, _PAX)

# Records of PAX headers that change neither the name nor the place of the content.
_PAX_FURTHER = (
    *(b"mtime", b"atime", b"ctime", b"uid", b"gid", b"uname", b"gname", b"comment"),
    *(b"SCHILY.", b"LIBARCHIVE."),
)


class Member(NamedTuple):
    """A member of an archive.

    Attributes:
        name: as the archive writes it. Bytes that are not UTF-8 are lone surrogates, as in names of files.
        offset: of the first byte of its content in the archive.
        size: of its content in bytes. The archive may end before.
        is_file: False if the content is not at that place: links, devices, and files that are stored with holes.
    """

    name: str
    offset: int
    size: int
    is_file: bool


class TarDamageError(Exception):
    """An archive is damaged, or ends too early, behind the members that were listed."""


@contextmanager
def mapped(file: Path) -> Iterator[mmap.mmap]:
    """Map a file into memory. One in a bucket must be copied before.

    Raises:
        ImageCapError: it is empty or cannot be read.
    """
    try:
        with local_file(file).open("rb") as opened:
            content = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise ImageCapError(f"{file} is empty (0 bytes)") from None
    except OSError as error:
        raise ImageCapError(f"{file} cannot be read: {error.strerror}") from None
    with content:
        yield content


def tar_members(content: mmap.mmap) -> Iterator[Member]:
    """Yield the members of an archive but its folders, in order.

    Raises:
        TarDamageError: what follows the members so far is damaged, cut off, or another archive.
    """
    position, end = 0, len(content)
    while position + _BLOCK <= end:
        start = position
        long_name: bytes | None = b""
        name, size, checksum, kind, magic, prefix = _HEADER.unpack_from(content, position)
        if not name[0] and content[position : position + _BLOCK] == _ZEROS:
            break
        length = _number(size) if _has_checksum(content, position, checksum) else None
        if length is not None and kind in _EXTENDED:
            position += _BLOCK
            extended = content[position : position + length]
            long_name = extended.partition(b"\0")[0] if kind == _LONG_NAME else _pax_name(extended)
            position += _rounded(length)
            length = None
            if long_name is not None and position + _BLOCK <= end:
                name, size, checksum, kind, magic, prefix = _HEADER.unpack_from(content, position)
                length = _number(size) if _has_checksum(content, position, checksum) else None
        if length is None or magic not in _MAGIC or not (kind in _FILES or kind == _FOLDER):
            yield from unusual_members(content, start)
            return
        position += _BLOCK
        if kind == _FOLDER:
            continue
        if long_name:
            name = long_name
        else:
            name = name.partition(b"\0")[0]
            if prefix[0] and magic == _POSIX:
                name = prefix.partition(b"\0")[0] + b"/" + name
        if name[-1:] == b"/":  # how the oldest archives write a folder
            yield from unusual_members(content, start)
            return
        yield Member(name.decode("utf-8", "surrogateescape"), position, length, True)
        position += _rounded(length)
    _check_end(content, position)


def unusual_members(content: mmap.mmap, start: int = 0) -> Iterator[Member]:
    """Yield what `tar_members` yields, from the header at `start` on, by means of `tarfile`."""
    content.seek(start)
    last = None
    try:
        with tarfile.open(fileobj=cast(Any, content), mode="r:", encoding="utf-8") as archive:
            for info in archive:
                if not info.isdir():
                    last = Member(info.name, info.offset_data, info.size, info.isreg() and not info.issparse())
                    yield last
            position = archive.offset
    except (tarfile.TarError, ValueError, OverflowError):  # a map raises ValueError for places beyond its end
        if last is not None and last.is_file and last.offset + _rounded(last.size) > len(content):
            return  # whoever reads the member finds that
        where = f"is damaged, or cut off, at byte {start}" if start or last else "is no tar archive"
        raise TarDamageError(where) from None
    _check_end(content, position)


def _check_end(content: mmap.mmap, position: int) -> None:
    """Raise `TarDamageError` unless the archive ends at a position, with or without its two blocks of zeros."""
    rest = content[position : position + _JOINED_BYTES]
    if not rest.strip(b"\0"):
        return
    if rest[:_BLOCK] == _ZEROS:
        raise TarDamageError("goes on behind its end, as where archives were joined by cat: join them by tar -A")
    raise TarDamageError(f"is damaged, or cut off, at byte {position}")


def _number(field: bytes) -> int | None:
    """An octal number; None if it is written in another way, as sizes from 8 GB on are."""
    try:
        return int(field.rstrip(b"\0 "), 8)
    except ValueError:
        return None


def _has_checksum(content: mmap.mmap, position: int, checksum: bytes) -> bool:
    """Whether a header has the checksum that it names: the sum of its bytes, with blanks in place of the checksum.

    The lower half of Adler-32 is one more than the sum of the bytes modulo a prime, and is computed by a library in C.
    """
    named = _number(checksum)
    if named is None:
        return False
    total = zlib.adler32(content[position : position + _BLOCK]) & 0xFFFF
    return (named - 8 * ord(" ") + sum(checksum) + 1 - total) % _ADLER_BASE == 0


def _rounded(length: int) -> int:
    return -(-length // _BLOCK) * _BLOCK


def _pax_name(content: bytes) -> bytes | None:
    """The name in a PAX header, empty if it has none; None if the header changes more than that."""
    name, place = b"", 0
    while place < len(content):
        digits, _, _ = content[place : place + 20].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        key, _, value = content[place + len(digits) + 1 : place + length - 1].partition(b"=")
        if not length or place + length > len(content):
            return None
        if key == b"path":
            name = value
        elif not key.startswith(_PAX_FURTHER):
            return None
        place += length
    return name
