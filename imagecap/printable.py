r"""Text that every file, database and terminal takes, whatever a file name holds and a terminal can show.

Python puts lone surrogates for the bytes of a file name that are not UTF-8, as in a zip archive of Chinese Windows.
UTF-8 files, Parquet and MLflow refuse these. Here each such byte is written as `\xNN`.
"""

import codecs
import io
import os
import re
import sys

_SHOWN_OTHERWISE = "imagecap.shown_otherwise"
_BYTE = re.compile(rb"\\x([89a-f][0-9a-f])")

# What tables and sentences of the command line use, in ASCII.
_PLAIN = {"─": "-", "–": "-", "—": "-", "−": "-", "…": "...", "→": "->", "×": "x", "≥": ">=", "≤": "<=", "±": "+-"}


def printable(text: str) -> str:
    r"""The text without lone surrogates: bytes of file names that are not UTF-8 become `\xNN`."""
    try:
        text.encode()
    except UnicodeEncodeError:
        pass
    else:
        return text
    try:
        return os.fsencode(text).decode(errors="backslashreplace")
    except UnicodeEncodeError:  # surrogates that stand for no byte
        return text.encode(errors="backslashreplace").decode()


def file_name(text: str) -> str:
    """The file name that `printable` wrote as `text`; a text without escaped bytes is returned unchanged."""
    if "\\x" not in text:
        return text
    try:
        return os.fsdecode(_BYTE.sub(lambda found: bytes.fromhex(found[1].decode()), text.encode()))
    except UnicodeEncodeError:
        return text


def adapt_terminal() -> None:
    r"""Let standard output and standard error show in another way what their encoding does not have.

    On a terminal in Latin-1, GBK or ASCII, `─` becomes `-`, `→` becomes `->`, and any other character `\uNNNN`.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_SHOWN_OTHERWISE)


def _shown_otherwise(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    shown = "".join(_PLAIN.get(character) or printable(character) for character in text)
    return shown.encode("ascii", "backslashreplace").decode("ascii"), error.end


codecs.register_error(_SHOWN_OTHERWISE, _shown_otherwise)
