"""Rows of captions.json gathered by picture: shared by the reading of training data and of test folders."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path

from imagecap.config import DataSettings
from imagecap.data.captions_file import Row
from imagecap.data.decoding import digest_pictures
from imagecap.data.images import PictureError
from imagecap.data.picture_files import PictureFinder
from imagecap.data.records import Caption, Problem, problem_lines
from imagecap.errors import ImageCapError


def rows_by_file(rows: Iterable[Row], finder: PictureFinder) -> tuple[dict[Path, list[Row]], list[Problem]]:
    """Each picture's rows, in order of first appearance; one problem for each name that leads to no file."""
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(row.image, []).append(row)
    by_file: dict[Path, list[Row]] = {}
    problems: list[Problem] = []
    for name, named in by_name.items():
        try:
            by_file.setdefault(finder.find(name), []).extend(named)
        except PictureError as error:
            problems.append(picture_problem(named, error))
    return by_file, problems


def digest_files(
    by_file: Mapping[Path, list[Row]], settings: DataSettings, name_of: Callable[[Path], str]
) -> tuple[dict[Path, str], list[Problem]]:
    """Decode every picture: its digest, or a problem. `name_of` names a picture that no row does."""
    digests: dict[Path, str] = {}
    problems: list[Problem] = []
    for path, digest in zip(by_file, digest_pictures(list(by_file), settings.max_image_pixels), strict=True):
        if isinstance(digest, str):
            digests[path] = digest
        elif by_file[path]:
            problems.append(picture_problem(by_file[path], digest))
        else:
            problems.append(Problem(None, name_of(path), f"the picture {digest.reason}"))
    return digests, problems


def picture_problem(rows: Sequence[Row], error: PictureError) -> Problem:
    """One problem for a bad picture, however many rows name it."""
    more = f" ({len(rows)} rows name it)" if len(rows) > 1 else ""
    return Problem(rows[0].number, rows[0].image, f"the picture {error.reason}{more}")


class Repeats:
    """Tells rows that say again what an earlier row said: same picture content, caption, prompt and language."""

    def __init__(self) -> None:
        self._first: dict[Hashable, int] = {}
        self._example: tuple[Row, int] | None = None
        self.count = 0

    def captions(self, digest: str, rows: Iterable[Row]) -> tuple[Caption, ...]:
        """The captions of a picture without the repeated ones, which are counted."""
        kept = []
        for row in sorted(rows, key=lambda row: row.number):
            caption = row.caption
            first = self._first.setdefault((digest, caption.text, caption.prompt, caption.language), row.number)
            if first == row.number:
                kept.append(caption)
            else:
                self.count += 1
                self._example = self._example or (row, first)
        return tuple(kept)

    def problems(self) -> list[Problem]:
        """One warning for all of them, or nothing."""
        if self._example is None:
            return []
        row, first = self._example
        what = "1 row repeats" if self.count == 1 else f"{self.count} rows repeat"
        message = f"{what} an earlier row (this one repeats row {first}); each is used once"
        return [Problem(row.number, row.image, message, "warning")]


def stop_on_errors(problems: Sequence[Problem], place: Path, settings: DataSettings) -> None:
    """Raise `ImageCapError` with the first problems if there are errors and the setting is to stop."""
    errors = [problem for problem in problems if problem.severity == "error"]
    if not errors or settings.on_bad_data == "skip":
        return
    count = "1 problem" if len(errors) == 1 else f"{len(errors)} problems"
    raise ImageCapError(
        f"{place} has {count}:\n{problem_lines(errors)}\n"
        "Mend the data, or leave the bad rows and pictures out with on_bad_data = skip (--on_bad_data skip)"
    )
