"""Records of the data set: captions, pictures with their captions, and problems of the data."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from imagecap.data.locations import ByteRange, Location
from imagecap.languages import Language

Split = Literal["train", "validation", "test"]

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Caption:
    """One sentence about a picture.

    Attributes:
        text: the sentence, without blanks around it.
        language: that of the row, or recognised by the script of `text`.
        prompt: prompt of the row, or the default prompt of the language.
        extra: the other columns of the row, unchanged.
    """

    text: str
    language: Language
    prompt: str
    extra: dict[str, Any] = field(default_factory=dict)


class CaptionRow(NamedTuple):  # made quickly: there may be millions
    """One row of a captions file whose fields are all in order.

    Attributes:
        number: position in the captions files, from 1.
        place: the same for messages: "row 3", or with the name of the file or another unit.
        image: name of the picture as written.
        split: None where the row names none.
        caption: the caption, with language and prompt filled in.
        location: where the picture is; None: it is looked up by its name.
    """

    number: int
    place: str
    image: str
    split: Split | None
    caption: Caption
    location: Location | None = None


class PlainPicture(NamedTuple):  # made quickly: there may be millions
    """A picture in a shard whose rows have nothing but its name and plain captions (`are_plain`).

    Attributes:
        place: where it was read, for messages.
        image: its name.
        location: where it is.
        texts: the captions.
    """

    place: str
    image: str
    location: ByteRange
    texts: list[str]


class PictureFacts(NamedTuple):
    """What is known of a picture once it was decoded.

    Attributes:
        digest: `picture_digest` of its pixels.
        width, height: in pixels, as it is seen: after EXIF orientation was applied.
        hash: its `difference_hash`, 32 bytes; None if nobody asked for it.
    """

    digest: str
    width: int
    height: int
    hash: bytes | None = None


@dataclass(frozen=True)
class Sample:
    """A picture with all its captions.

    Attributes:
        image: name of the picture as the captions file writes it.
        path: where the picture is; the file is absolute.
        digest: `picture_digest` of the decoded pixels, which is equal for files with equal pixels.
        split: training, validation or test set.
        captions: in the order of captions.json.
    """

    image: str
    path: Location
    digest: str
    split: Split
    captions: tuple[Caption, ...]


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with the data. Rows with an error cannot be used; rows with a warning can.

    Attributes:
        row: position of the row in the captions files, from 1; None where the problem is not that of one row.
        image: name of the picture in that row, if it has one.
        message: a sentence without its full stop.
        severity: whether what it concerns can be used.
        place: the position for messages, where it is not "row N".
    """

    row: int | None
    image: str | None
    message: str
    severity: Literal["error", "warning"] = "error"
    place: str | None = None

    def __str__(self) -> str:
        position = self.place or (f"row {self.row}" if self.row is not None else "")
        shown = f"({self.image})" if position else self.image
        place = " ".join(part for part in (position, shown if self.image else "") if part)
        return f"{place}: {self.message}" if place else self.message


LeftOut = dict[str, Counter[str]]
"""How many `pictures` and `captions` were left out, by the name of the setting that did it."""


def added(*counts: LeftOut) -> LeftOut:
    """The sums of what was left out."""
    sums: LeftOut = {}
    for each in counts:
        for name, numbers in each.items():
            sums.setdefault(name, Counter()).update(numbers)
    return sums


def picture_id(value: Any) -> str | None:
    """The name of a picture by the value of its id, so that `1`, `1.0` and `"1"` are one; None if it is no id."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else None
    whole, point, zeros = str(value).partition(".")
    return whole if point and zeros and not zeros.strip("0") and whole.lstrip("-").isdecimal() else str(value)


def problem_lines(problems: Sequence[Problem], limit: int = 5) -> str:
    """The first `limit` problems on an indented line each, and a line with the number of further ones."""
    lines = [f"  {problem}" for problem in problems[:limit]]
    if len(problems) > limit:
        lines.append(f"  … and {len(problems) - limit} more")
    return "\n".join(lines)
