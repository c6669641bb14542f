"""Names and endings for copies of pictures, whose own names may be anything where they come from shards."""

from collections.abc import Container, Iterable
from pathlib import Path

from imagecap.data.images import PictureError, open_image
from imagecap.data.locations import ByteRange, read_bytes
from imagecap.data.picture_files import is_picture_name, is_relative_name
from imagecap.data.records import Sample
from imagecap.errors import ImageCapError

_LONGEST_PART = 200  # bytes; file systems allow 255, and a number may be added
_ENDINGS = {"JPEG": ".jpg", "MPO": ".jpg", "JPEG2000": ".jp2"}  # those of other formats are their names
_MAX_PIXELS = 1 << 62  # the picture was checked when the data was read


def content_of(sample: Sample) -> bytes:
    """The bytes of a picture file.

    Raises:
        ImageCapError: the picture cannot be read any more.
    """
    try:
        content = read_bytes(sample.path)
    except OSError as error:
        raise ImageCapError(f"{sample.image}: {sample.path} cannot be read: {error.strerror}") from None
    if not content or (isinstance(sample.path, ByteRange) and len(content) < sample.path.length):
        raise ImageCapError(f"{sample.image}: {sample.path} has changed since the data was read; start again")
    return content


def ending_of(name: str, content: bytes) -> str:
    """The ending of a picture's file in small letters, with its dot: that of its name, or else of its real format.

    Raises:
        ImageCapError: the name has no picture's ending and `content` is no picture.
    """
    if is_picture_name(name):
        return Path(name).suffix.lower()
    try:
        with open_image(content, _MAX_PIXELS) as opened:
            kind = opened.format or ""
    except PictureError as error:
        raise ImageCapError(f"{name}: the picture {error.reason}") from None
    return _ENDINGS.get(kind, f".{kind.lower()}")


def unique_names(samples: Iterable[Sample]) -> list[str]:
    """Return a relative path for a copy of each picture, all different.

    It is the picture's name. One that comes again, from another folder, gets a number. One without a picture's ending
    gets that of its format. A name that is no relative path, such as an address, is replaced by `picture-NUMBER`.
    """
    names: dict[str, None] = {}
    for number, sample in enumerate(samples, 1):
        name = usable_name(sample.image, number)
        if not is_picture_name(name):
            name += ending_of(sample.image, content_of(sample))
        names[free_name(name, names)] = None
    return list(names)


def usable_name(name: str, number: int) -> str:
    """The name of a picture, or `picture-NUMBER` if it is no relative path or has too long a part."""
    short = all(len(part.encode()) <= _LONGEST_PART for part in name.split("/"))
    return name if short and is_relative_name(name) else f"picture-{number}"


def free_name(name: str, taken: Container[str]) -> str:
    """The name in its plain form, with a number before its ending if it is taken."""
    path = Path(name)
    free, number = path.as_posix(), 1
    while free in taken:
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}").as_posix()
    return free
