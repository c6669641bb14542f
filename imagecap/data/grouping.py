"""Steps that the readers of data folders and of folders of pictures share: rows by picture, digests, repeated rows."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from imagecap.config import DataSettings
from imagecap.data.images import PictureError
from imagecap.data.locations import Location
from imagecap.data.picture_files import PictureFinders
from imagecap.data.records import Caption, CaptionRow, PictureFacts, Problem, problem_lines
from imagecap.errors import ImageCapError

DigestFunction = Callable[[Sequence[Location]], list[PictureFacts | PictureError]]


def rows_by_name(rows: Iterable[CaptionRow]) -> dict[str, list[CaptionRow]]:
    """The rows of each picture name, in order of first appearance."""
    by_name: dict[str, list[CaptionRow]] = {}
    for row in rows:
        by_name.setdefault(row.image, []).append(row)
    return by_name


def add_rows_by_file(
    by_file: dict[Location, list[CaptionRow]], rows: Iterable[CaptionRow], finder: PictureFinders | None
) -> list[Problem]:
    """Add rows to those of each picture; return a problem for each name without a file.

    Args:
        by_file: receives the rows.
        rows: those that have a location are of the picture there.
        finder: looks up the names of the others; None if there are no others.
    """
    problems: list[Problem] = []
    unplaced: list[CaptionRow] = []
    for location, of_location in groupby(rows, key=attrgetter("location")):  # rows of a picture follow each other
        if location is None:
            unplaced.extend(of_location)
        else:
            by_file.setdefault(location, []).extend(of_location)
    for name, named in rows_by_name(unplaced).items():
        assert finder is not None
        try:
            by_file.setdefault(finder.find(name), []).extend(named)
        except PictureError as error:
            problems.append(picture_problem(named, error))
    return problems


def digest_files(
    by_file: Mapping[Location, list[CaptionRow]],
    digest: DigestFunction,
    name_of: Callable[[Location], str],
) -> tuple[dict[Location, PictureFacts], list[Problem]]:
    """Decode every picture, and return the facts of each that can be read and a problem for each that cannot.

    Args:
        by_file: rows of each picture file; may be empty.
        digest: gives the facts of pictures, such as `digest_pictures`.
        name_of: name in messages of a picture without rows.
    """
    facts: dict[Location, PictureFacts] = {}
    problems: list[Problem] = []
    for path, found in zip(by_file, digest(list(by_file)), strict=True):
        if not isinstance(found, PictureError):
            facts[path] = found
        elif by_file[path]:
            problems.append(picture_problem(by_file[path], found))
        else:
            problems.append(Problem(None, name_of(path), f"the picture {found.reason}"))
    return facts, problems


def picture_problem(rows: Sequence[CaptionRow], error: PictureError) -> Problem:
    """The problem of a picture that cannot be used: one, however many rows name the picture."""
    more = f" ({len(rows)} rows name it)" if len(rows) > 1 else ""
    return Problem(rows[0].number, rows[0].image, f"the picture {error.reason}{more}", place=rows[0].place)


class Repeats:
    """Finds rows that repeat an earlier one: the same picture content, caption, prompt and language."""

    def __init__(self) -> None:
        self._first: dict[Hashable, CaptionRow] = {}
        self._example: tuple[CaptionRow, CaptionRow] | None = None
        self.count = 0

    def captions(self, digest: str, rows: Iterable[CaptionRow]) -> tuple[Caption, ...]:
        """The captions of a picture. Repeated ones are counted and left out."""
        kept = []
        for row in sorted(rows, key=attrgetter("number")):
            caption = row.caption
            first = self._first.setdefault((digest, caption.text, caption.prompt, caption.language), row)
            if first is row:
                kept.append(caption)
            else:
                self.count += 1
                self._example = self._example or (row, first)
        return tuple(kept)

    def problems(self) -> list[Problem]:
        """One warning for all repeated rows, if there are any."""
        if self._example is None:
            return []
        row, first = self._example
        what = "1 row repeats" if self.count == 1 else f"{self.count} rows repeat"
        message = f"{what} an earlier row (this one repeats {first.place}); each is used once"
        return [Problem(row.number, row.image, message, "warning", row.place)]


def stop_on_errors(problems: Sequence[Problem], place: Path, settings: DataSettings) -> None:
    """Raise `ImageCapError` with the first errors if there are any and `on_bad_data` is "stop"."""
    errors = [problem for problem in problems if problem.severity == "error"]
    if not errors or settings.on_bad_data == "skip":
        return
    count = "1 problem" if len(errors) == 1 else f"{len(errors)} problems"
    raise ImageCapError(
        f"{place} has {count}:\n{problem_lines(errors)}\n"
        "Mend the data, or leave the bad rows and pictures out with on_bad_data = skip (--on_bad_data skip)"
    )
