"""Reading text files line by line, with errors as sentences."""

from collections.abc import Iterator
from pathlib import Path

from imagecap.errors import ImageCapError

_LONGEST_LINE = 1 << 16


def first_line(file: Path) -> str:
    """Return the first line of a text file; empty if the file is none or cannot be read."""
    try:
        with file.open("rb") as opened:
            return opened.readline(_LONGEST_LINE).decode("utf-8-sig").rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        return ""


def text_lines(file: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, with or without a byte order mark, without their ends.

    Raises:
        ImageCapError: the file cannot be read, or is not UTF-8 (the message names the line).
    """
    number = 0
    try:
        with file.open("rb") as opened:
            for number, line in enumerate(opened, 1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except OSError as error:
        raise ImageCapError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ImageCapError(f"{file} is not UTF-8 text (line {number}); save it as UTF-8") from None
