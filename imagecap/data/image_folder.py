"""Reading a folder of pictures to be captioned and, where references lie in it or beside it, to be evaluated."""

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from imagecap.config import DataSettings
from imagecap.data.captions_file import captions_file, read_rows
from imagecap.data.grouping import Repeats, digest_files, picture_problem, rows_by_name, stop_on_errors
from imagecap.data.images import PictureError
from imagecap.data.picture_files import PictureFinder
from imagecap.data.records import CaptionRow, Problem, Sample, problem_lines
from imagecap.errors import ImageCapError
from imagecap.files import natural_key

_log = logging.getLogger(__name__)

_IMAGES = "images"

# A folder may hold other files too, so that pictures are told by their endings. HEIC cannot be read, but is listed so
# that it is reported and not ignored.
_PICTURE_ENDINGS = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".ico", ".heic", ".heif"),
}


def is_picture_name(name: str) -> bool:
    """Whether the ending of a file name is that of a picture."""
    return Path(name).suffix.lower() in _PICTURE_ENDINGS


def read_image_folder(folder: Path, settings: DataSettings) -> list[Sample]:
    """Read every picture of a folder, in natural order of names (2 before 10), with its references.

    Pictures are the files in `folder` and in `folder/images` that have a picture's ending and are not hidden, and
    those anywhere below `folder` that captions.json names. captions.json may lie in `folder` or in the folder above.
    Its names are looked up in the folder `images` beside it, then beside it, then in `folder`. A picture without
    references has no captions. All samples have the split "test".

    captions.json may name pictures that are not in `folder`. Only in a data folder (`folder` or `folder/images` has
    the layout of one) is a missing picture an error.

    Args:
        folder: a folder of pictures, a data folder (captions.json and images/), or the images/ of a data folder.
        settings: `on_bad_data`, `language` (of the references), `max_image_pixels` and the prompts are used.

    Raises:
        ImageCapError: the folder does not exist, no picture in it can be read, or a picture or row is bad and
            `on_bad_data` is "stop". With "skip" bad pictures and rows are left out and logged as a warning.
    """
    folder = Path(os.path.abspath(folder.expanduser()))  # noqa: PTH100  (also resolves `images/..`)
    if not folder.is_dir():
        raise ImageCapError(f"the folder of pictures {folder} does not exist")
    by_file: dict[Path, list[CaptionRow]] = {
        path: [] for path in (*_pictures_in(folder), *_pictures_in(folder / _IMAGES))
    }
    problems = _add_references(by_file, folder, settings)
    names = _names(by_file, folder)
    digests, unreadable = digest_files(by_file, settings, names.__getitem__)
    problems += unreadable
    stop_on_errors(problems, folder, settings)

    repeats = Repeats()
    samples = []
    for path in sorted(digests, key=lambda path: natural_key(names[path])):
        rows = (row for row in by_file[path] if settings.language in ("all", row.caption.language))
        # every file is a result of its own here: the same pixels under another name keep all their references
        captions = repeats.captions(str(path), rows)
        samples.append(Sample(names[path], path, digests[path], "test", captions))
    problems += repeats.problems()
    if problems:
        _log.warning("%s:\n%s", folder, problem_lines(problems))
    if not samples:
        raise ImageCapError(f"there are no pictures that can be read in {folder}")
    return samples


def _pictures_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [
        folder / entry.name
        for entry in os.scandir(folder)
        if is_picture_name(entry.name) and not entry.name.startswith(".") and entry.is_file()
    ]


def _add_references(by_file: dict[Path, list[CaptionRow]], folder: Path, settings: DataSettings) -> list[Problem]:
    """Add the rows of the captions file, if there is one, to the pictures of `folder`; return their problems."""
    home = next((place for place in (folder, folder.parent) if captions_file(place).is_file()), None)
    if home is None:
        return []
    file = captions_file(home)
    rows, problems = read_rows(file, settings)
    finders = [PictureFinder(place) for place in dict.fromkeys((home / _IMAGES, home, folder)) if place.is_dir()]
    belongs = (home / _IMAGES).is_dir() and folder in (home, home / _IMAGES)
    elsewhere: list[Problem] = []
    for name, named in rows_by_name(rows).items():
        found = _find(name, finders)
        if isinstance(found, PictureError):
            (problems if belongs else elsewhere).append(picture_problem(named, found))
        elif folder in found.parents:
            by_file.setdefault(found, []).extend(named)
    if elsewhere and not any(by_file.values()):
        _log.warning("%s names none of the pictures in %s:\n%s", file, folder, problem_lines(elsewhere))
    return problems


def _find(name: str, finders: Iterable[PictureFinder]) -> Path | PictureError:
    """The file of a picture, looked up in one folder after the other, or the error of the first folder."""
    error: PictureError | None = None
    for finder in finders:
        try:
            return finder.find(name)
        except PictureError as found:
            error = error or found
    assert error is not None
    return error


def _names(by_file: dict[Path, list[CaptionRow]], folder: Path) -> dict[Path, str]:
    """The name of each picture in results: that of captions.json or the path in `folder`. Names are unique."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path, rows in by_file.items():
        relative = path.relative_to(folder).as_posix()
        name = rows[0].image if rows else relative.removeprefix(f"{_IMAGES}/")
        names[path] = relative if name in taken else name
        taken.add(names[path])
    return names
