"""Leaving out the metadata of a picture file, so that damage to it is no damage to the picture.

Pillow refuses a whole picture for a text or colour profile of more than a megabyte, for a wrong checksum of a text, for
a broken list of embedded pictures. Pixels do not depend on any of these.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_NAMES = re.compile(rb"PLTE|tRNS|eXIf|IDAT|IEND")

# Bytes after 0xFF that mark segments of a JPEG, and the length of whole segments that the colours depend on.
_APP0, _APP1, _APP14, _APP15, _COMMENT, _SCAN = 0xE0, 0xE1, 0xEE, 0xEF, 0xFE, 0xDA
_COLOUR_BYTES = {_APP0: 18, _APP14: 16}

_WEBP_PIXELS = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
_WEBP_EXIF_FLAG = 0x08
_WEBP_METADATA_FLAGS = 0x20 | _WEBP_EXIF_FLAG | 0x04  # colour profile, EXIF and XMP, in the first byte of VP8X

# Tags of a TIFF that say where the pixels are and how to read them; 274 is the orientation.
_TIFF_TAGS = {
    254,
    255,
    256,
    257,
    258,
    259,
    262,
    266,
    273,
    274,
    277,
    278,
    279,
    284,
    292,
    293,
    317,
    320,
    322,
    323,
    324,
    325,
}
_TIFF_TAGS |= {332, 336, 338, 339, 347, 512, 513, 514, 515, 519, 520, 521, 529, 530, 531, 532}


def without_metadata(content: bytes) -> Iterator[bytes]:
    """Yield a picture file without its metadata: with EXIF, which has the orientation, and then without it.

    Args:
        content: a whole file, which may be damaged.

    Yields:
        Files that may be damaged too; nothing for formats whose metadata cannot keep Pillow from the pixels.
    """
    if content.startswith(_PNG):
        yield _png(content, (b"tRNS", b"eXIf"))
        yield _png(content, (b"tRNS",))
    elif content.startswith(b"\xff\xd8"):
        yield _jpeg(content, exif=True)
        yield _jpeg(content, exif=False)
    elif content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        yield _webp(content, exif=True)
        yield _webp(content, exif=False)
    elif content.startswith((b"II*\0", b"MM\0*")):
        yield from _tiff(content)


def _png(content: bytes, kept: tuple[bytes, ...]) -> bytes:
    """The chunks that every decoder must know (their names begin with a capital), and those in `kept` if undamaged."""
    parts = [_PNG]
    place = len(_PNG)
    while place + 8 <= len(content):
        length, name = struct.unpack_from(">I4s", content, place)
        end = place + 12 + length
        critical = name[:1].isupper()
        if not critical and end > len(content):  # a wrong length: the pixels come further on
            found = _PNG_NAMES.search(content, place + 8)
            if found is None:
                break
            end = found.start() - 4
        elif critical or (name in kept and _has_checksum(content[place + 4 : end])):
            parts.append(content[place:end])
        place = end
    return b"".join(parts)


def _has_checksum(chunk: bytes) -> bool:
    """Whether a chunk of a PNG, without its length, ends in the right checksum."""
    return zlib.crc32(chunk[:-4]) == int.from_bytes(chunk[-4:], "big")


def _jpeg(content: bytes, exif: bool) -> bytes:
    """The segments without comments and without application data, except what the colours depend on, and EXIF."""
    parts = [content[:2]]
    place = 2
    while place + 4 <= len(content) and content[place] == 0xFF:
        marker, length = struct.unpack_from(">xBH", content, place)
        if marker == 0xFF:  # fill bytes
            place += 1
            continue
        if marker == _SCAN:
            break
        segment = content[place : place + 2 + length]
        is_data = marker == _COMMENT or _APP0 <= marker <= _APP15
        is_exif = marker == _APP1 and segment[4:10] == b"Exif\0\0"
        has_colours = len(segment) >= _COLOUR_BYTES.get(marker, len(segment) + 1)
        if not is_data or has_colours or (exif and is_exif):
            parts.append(segment)
        place += 2 + length
    return b"".join((*parts, content[place:]))


def _webp(content: bytes, exif: bool) -> bytes:
    """The chunks with pixels, and a whole EXIF block if `exif`."""
    parts = []
    place = 12
    while place + 8 <= len(content):
        name, length = struct.unpack_from("<4sI", content, place)
        chunk = content[place : place + 8 + length + length % 2]
        has_exif = exif and name == b"EXIF" and len(chunk) >= 8 + length
        if name == b"VP8X" and len(chunk) > 8:
            flags = chunk[8] & ~_WEBP_METADATA_FLAGS | (chunk[8] & _WEBP_EXIF_FLAG if exif else 0)
            chunk = chunk[:8] + bytes([flags]) + chunk[9:]
        if name in _WEBP_PIXELS or has_exif:
            parts.append(chunk)
        place += 8 + length + length % 2
    body = b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _tiff(content: bytes) -> Iterator[bytes]:
    """The file with only those tags in its first directory that the pixels depend on."""
    order = "<" if content.startswith(b"II") else ">"
    with suppress(struct.error):  # a header or a directory beyond the end
        (place,) = struct.unpack_from(f"{order}I", content, 4)
        (count,) = struct.unpack_from(f"{order}H", content, place)
        entries = [struct.unpack_from("12s", content, place + 2 + 12 * index)[0] for index in range(count)]
        kept = [entry for entry in entries if struct.unpack_from(f"{order}H", entry)[0] in _TIFF_TAGS]
        directory = struct.pack(f"{order}H", len(kept)) + b"".join(kept)
        end = place + 2 + 12 * count + 4
        yield content[:place] + directory.ljust(end - place, b"\0") + content[end:]
