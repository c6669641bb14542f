"""What the data package hands out: pictures with their captions, and what was wrong with the data."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from imagecap.languages import Language

Split = Literal["train", "validation", "test"]

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Caption:
    """One sentence about a picture.

    Attributes:
        text: the sentence, without blanks around it.
        language: as the row says, or by the script of `text`.
        prompt: what the model is asked; the row's own, or the default of the language.
        extra: the row's other columns, as they are.
    """

    text: str
    language: Language
    prompt: str
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """A picture with all its captions.

    Attributes:
        image: the name, as captions.json writes it.
        path: the file, absolute.
        digest: SHA-256 (hex) of the decoded pixels; two files with one content have one digest.
        split: the part of the data that it belongs to.
        captions: in the order of captions.json.
    """

    image: str
    path: Path
    digest: str
    split: Split
    captions: tuple[Caption, ...]


@dataclass(frozen=True)
class Problem:
    """Something wrong with the data: an error makes rows useless, a warning does not.

    Attributes:
        row: position in the list of captions.json, from 1; None where no single row is to blame.
        image: the name that the row gives, if any.
        message: a sentence.
    """

    row: int | None
    image: str | None
    message: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        place = " ".join(
            part
            for part in (
                f"row {self.row}" if self.row is not None else "",
                (f"({self.image})" if self.row is not None else self.image) if self.image else "",
            )
            if part
        )
        return f"{place}: {self.message}" if place else self.message


def problem_lines(problems: Sequence[Problem], limit: int = 5) -> str:
    """The first `limit` problems, one a line and indented, and how many more there are."""
    lines = [f"  {problem}" for problem in problems[:limit]]
    if len(problems) > limit:
        lines.append(f"  … and {len(problems) - limit} more")
    return "\n".join(lines)
