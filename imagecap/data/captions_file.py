"""Reading captions.json, and checking every field of the rows of any format. Pictures are not looked at here."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imagecap.config import DataSettings
from imagecap.data.records import Caption, CaptionRow, Problem, Split
from imagecap.data.splits import split_named
from imagecap.errors import ImageCapError
from imagecap.languages import LANGUAGES, Language, language_named, language_of

CAPTIONS_FILE = "captions.json"

_COLUMNS = frozenset({"image", "caption", "split", "language", "prompt"})


@dataclass(frozen=True)
class RawRow:
    """A row of a captions file in the columns of captions.json, before its fields are checked.

    Attributes:
        place: where the row is, for messages: "row 3", "line 7", "annotation 12".
        value: the columns. Anything else than a dict is reported as a problem of the row.
    """

    place: str
    value: Any


def read_rows(file: Path, settings: DataSettings) -> tuple[list[CaptionRow], list[Problem]]:
    """Read captions.json and check every row; raises as `load_rows` does."""
    return check_rows([RawRow(f"row {number}", value) for number, value in enumerate(load_rows(file), 1)], settings)


def load_rows(file: Path) -> list[Any]:
    """Read the list in captions.json.

    Raises:
        ImageCapError: the file is missing, is not JSON (the message names line and column), or holds no list of rows.
    """
    values = load_json(file)
    if not isinstance(values, list):
        raise ImageCapError(
            f'{file} must hold a list of rows such as {{"image": "a.jpg", "caption": "…"}}, not {_kind(values)}'
        )
    if not values:
        raise ImageCapError(f"{file} has no rows")
    return values


def check_rows(
    raw: Iterable[RawRow | Problem], settings: DataSettings, numbered_from: int = 0, prefix: str = ""
) -> tuple[list[CaptionRow], list[Problem]]:
    """Check every field of the rows.

    Args:
        raw: the rows, and problems that were found while they were read.
        settings: the prompts are used.
        numbered_from: number of the rows before these.
        prefix: text before the place of each row in messages, such as the name of the file.

    Returns:
        The rows that are in order, and the problems.
    """
    rows: list[CaptionRow] = []
    problems: list[Problem] = []
    for number, each in enumerate(raw, numbered_from + 1):
        if isinstance(each, Problem):
            problems.append(replace(each, row=number, place=prefix + each.place) if each.place else each)
            continue
        row = _check_row(number, prefix + each.place, each.value, settings)
        if isinstance(row, CaptionRow):
            rows.append(row)
        else:
            problems.extend(row)
    return rows, problems


def load_json(file: Path) -> Any:
    """Parse a JSON file that may be UTF-8, UTF-16 or UTF-32; `NaN` is read as null.

    Raises:
        ImageCapError: the file is missing, cannot be read, or is not JSON (the message names line and column).
    """
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        raise ImageCapError(
            f"{file} is missing; a data folder holds captions.json and a folder images/ with the pictures"
        ) from None
    except OSError as error:
        raise ImageCapError(f"{file} cannot be read: {error.strerror}") from None
    encoding = json.detect_encoding(raw)  # UTF-8, or UTF-16/32, with or without a byte order mark
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ImageCapError(f"{file} is not {encoding.upper()} text (line {line}); save it as UTF-8") from None
    if not text.strip():
        raise ImageCapError(f"{file} is empty; it must hold a list of rows")
    try:
        # NaN, which pandas writes into an empty cell, reads as null.
        return json.loads(text, parse_constant=lambda _: None)
    except json.JSONDecodeError as error:
        hint = ""
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            hint = "; one object a line is JSON Lines: call the file captions.jsonl"
        raise ImageCapError(
            f"{file} is not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}{hint}"
        ) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets thousands deep
        raise ImageCapError(f"{file} cannot be read as JSON: {error}") from None


def _check_row(number: int, place: str, value: Any, settings: DataSettings) -> CaptionRow | list[Problem]:
    """The checked row, or one problem for each field that is wrong."""
    if not isinstance(value, dict):
        message = f'the row must be {{"image": …, "caption": …}}, not {_kind(value)}'
        return [Problem(number, None, message, place=place)]
    messages: list[str] = []
    image = _text(value, "image", messages)
    text = _text(value, "caption", messages)
    optional: dict[str, str | None] = {}
    for column in ("split", "language", "prompt"):
        absent = value.get(column) in (None, "")  # an empty cell, as tables write it
        optional[column] = None if absent else _text(value, column, messages)

    split: Split | None = None
    if optional["split"]:
        split = split_named(optional["split"])
        if split is None:
            messages.append(f'split is "{_short(optional["split"])}"; write train, val, validation or test')
    language: Language = language_of(text or "")
    if optional["language"]:
        named = language_named(optional["language"])
        if named is None:
            messages.append(f'language is "{_short(optional["language"])}"; write {" or ".join(LANGUAGES)}')
        else:
            language = named

    extra = {name: content for name, content in value.items() if name not in _COLUMNS}
    if extra and not _is_unicode(json.dumps(extra, ensure_ascii=False)):
        messages.append("a further column holds half a character (a lone surrogate \\ud800 … \\udfff)")
    if messages or image is None or text is None:
        shown = image if image is not None and _is_unicode(image) else None
        return [Problem(number, shown, message, place=place) for message in messages]
    prompt = optional["prompt"] or settings.prompt_of(language)
    return CaptionRow(number, place, image, split, Caption(text.strip(), language, prompt, extra))


def _text(row: dict[str, Any], column: str, messages: list[str]) -> str | None:
    """A field that must be text and not blank; None, and a message in `messages`, if it is not."""
    if column not in row:
        messages.append(f'the row has no "{column}"')
        return None
    value = row[column]
    if not isinstance(value, str):
        hint = "; write one row per caption" if column == "caption" and isinstance(value, list) else ""
        messages.append(f"{column} must be text, not {_kind(value)}{hint}")
        return None
    if not value.strip():
        messages.append(f"{column} is empty")
        return None
    if not _is_unicode(value):
        messages.append(f"{column} holds half a character (a lone surrogate \\ud800 … \\udfff)")
        return None
    return value


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: Any) -> str:
    """The kind of a JSON value, for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "an object"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 40 else text[:39] + "…"
