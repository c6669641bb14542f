"""Reading captions.json, and checking every field of the rows of any format. Pictures are not looked at here."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from imagecap.config import DataSettings
from imagecap.data.locations import Location
from imagecap.data.records import Caption, CaptionRow, Problem, Split
from imagecap.data.splits import split_named
from imagecap.data.texts import (
    control_character,
    is_blank,
    is_plain,
    mark_in,
    picture_mark_in,
    trim,
    without_control_characters,
    without_picture_mark,
)
from imagecap.errors import ImageCapError
from imagecap.files import RepeatedKey, object_of
from imagecap.languages import ENGLISH, LANGUAGES, Language, language_named, languages_of

CAPTIONS_FILE = "captions.json"

_COLUMNS = frozenset({"image", "caption", "split", "language", "prompt"})


class RawRow(NamedTuple):  # made quickly: there may be millions
    """A row of a captions file in the columns of captions.json, before its fields are checked.

    Attributes:
        place: where the row is, for messages: "row 3", "line 7", "annotation 12".
        value: the columns. Anything else than a dict is reported as a problem of the row.
        location: where the picture is; None: it is looked up by its name in the folders of the pictures.
    """

    place: str
    value: Any
    location: Location | None = None


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
    rows: list[CaptionRow | _Row] = []
    problems: list[Problem] = []
    oddities = _Oddities()
    english = settings.prompt_of(ENGLISH.code)
    plain_image: str | None = None  # that of the row before, which mostly is of the same picture
    for number, each in enumerate(raw, numbered_from + 1):
        if isinstance(each, Problem):
            problems.append(replace(each, row=number, place=prefix + each.place) if each.place else each)
            continue
        place = prefix + each.place
        plain = _plain_row(number, place, each, plain_image, english)
        if plain is not None:
            plain_image = plain.image
            rows.append(plain)
            continue
        row = _check_row(number, place, each, oddities)
        if isinstance(row, _Row):
            rows.append(row)
        else:
            problems.extend(row)
    return _with_languages(rows, settings), problems + oddities.problems()


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
        return json.loads(text, parse_constant=lambda _: None, object_pairs_hook=object_of)
    except json.JSONDecodeError as error:
        hint = ""
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            hint = "; one object a line is JSON Lines: call the file captions.jsonl"
        raise ImageCapError(
            f"{file} is not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}{hint}"
        ) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets thousands deep
        raise ImageCapError(f"{file} cannot be read as JSON: {error}") from None


class _Row(NamedTuple):  # made quickly: there may be millions
    """A row whose fields are all in order. `language` and `prompt` are None where the row has none."""

    number: int
    place: str
    image: str
    split: Split | None
    text: str
    language: Language | None
    prompt: str | None
    extra: dict[str, Any]
    location: Location | None


def _plain_row(number: int, place: str, raw: RawRow, plain_image: str | None, prompt: str) -> CaptionRow | None:
    """The checked row, taken for English, if it has nothing but the name of a picture and a caption, both plain.

    None for any other row. See `is_plain`; `plain_image` is a name that is known to be plain.
    """
    value = raw.value
    if type(value) is not dict or len(value) != 2:
        return None
    image, text = value.get("image"), value.get("caption")
    if not (isinstance(image, str) and isinstance(text, str) and is_plain(text)):
        return None
    if image is not plain_image and not is_plain(image):
        return None
    return CaptionRow(number, place, image, None, Caption(text, ENGLISH.code, prompt, {}), raw.location)


def _check_row(number: int, place: str, raw: RawRow, oddities: "_Oddities") -> _Row | list[Problem]:
    """The checked row, or one problem for each field that is wrong."""
    value = raw.value
    if not isinstance(value, dict):
        message = f'the row must be {{"image": …, "caption": …}}, not {_kind(value)}'
        return [Problem(number, None, message, place=place)]
    messages: list[str] = []
    if isinstance(value, RepeatedKey):
        messages.append(f'the row holds "{_short(value.repeated)}" twice; keep one of them')
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
    language: Language | None = None
    if optional["language"]:
        language = language_named(optional["language"])
        if language is None:
            messages.append(f'language is "{_short(optional["language"])}"; write {" or ".join(LANGUAGES)}')

    extra = {name: content for name, content in value.items() if name not in _COLUMNS}
    if extra and not _is_unicode(json.dumps(extra, ensure_ascii=False)):
        messages.append("a further column holds half a character (a lone surrogate \\ud800 … \\udfff)")
    prompt = optional["prompt"]
    stripped = without_picture_mark(without_control_characters(prompt)) if prompt is not None else ""
    if mark := picture_mark_in(stripped):
        messages.append(f"prompt holds {mark} between other words; the picture stands before the prompt: remove it")
    if messages or image is None or text is None:
        shown = image if image is not None and _is_unicode(image) else None
        return [Problem(number, shown, message, place=place) for message in messages]
    cleaned = trim(without_control_characters(text))
    row = _Row(number, place, image, split, cleaned, language, stripped or None, extra, raw.location)
    oddities.look_at(row, text, prompt or "")
    return row


def _with_languages(rows: Sequence["CaptionRow | _Row"], settings: DataSettings) -> list[CaptionRow]:
    """Fill in language and prompt of each row. Those of plain rows depend on the other captions of their picture."""
    plain = [row for row in rows if isinstance(row, CaptionRow)]
    if len(plain) == len(rows):
        return plain
    languages = languages_of(
        [
            (row.image, row.text, row.language) if isinstance(row, _Row) else (row.image, row.caption.text, None)
            for row in rows
        ]
    )
    return [_with_language(row, language, settings) for row, language in zip(rows, languages, strict=True)]


def _with_language(row: "CaptionRow | _Row", language: Language, settings: DataSettings) -> CaptionRow:
    if isinstance(row, CaptionRow) and language == row.caption.language:
        return row
    if isinstance(row, CaptionRow):
        caption = replace(row.caption, language=language, prompt=settings.prompt_of(language))
        return row._replace(caption=caption)
    caption = Caption(row.text, language, row.prompt or settings.prompt_of(language), row.extra)
    return CaptionRow(row.number, row.place, row.image, row.split, caption, row.location)


class _Oddities:
    """What is used although it is odd: one warning for each kind, with its first row."""

    def __init__(self) -> None:
        self._first: dict[str, Problem] = {}
        self._counts: Counter[str] = Counter()

    def look_at(self, row: _Row, text: str, prompt: str) -> None:
        """Note what is odd about the caption and the prompt of a row, as they are written."""
        if mark := mark_in(text):
            self._add("marks", row, f"caption holds {mark}, which is trained on as ordinary letters")
        if mark := picture_mark_in(prompt):
            self._add("prompts", row, f"{mark} is left out of the prompt, which always follows the picture")
        if control := control_character(text) or control_character(prompt):
            self._add("controls", row, f"the control character {control} is left out")

    def problems(self) -> list[Problem]:
        """The warnings."""
        return [
            replace(problem, message=f"{problem.message} (the first of {self._counts[kind]} rows)")
            if self._counts[kind] > 1
            else problem
            for kind, problem in self._first.items()
        ]

    def _add(self, kind: str, row: _Row, message: str) -> None:
        self._first.setdefault(kind, Problem(row.number, row.image, message, "warning", row.place))
        self._counts[kind] += 1


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
    if is_blank(value):
        messages.append(f"{column} is empty" + (" (it has invisible characters only)" if value.strip() else ""))
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
