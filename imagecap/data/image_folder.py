"""A folder of pictures to be captioned and, where captions lie in it or beside it, judged."""

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from imagecap.config import DataSettings
from imagecap.data.captions_file import Row, captions_file, read_rows
from imagecap.data.grouping import Repeats, digest_files, picture_problem, stop_on_errors
from imagecap.data.images import PictureError
from imagecap.data.picture_files import PictureFinder
from imagecap.data.records import Problem, Sample, problem_lines
from imagecap.errors import ImageCapError
from imagecap.files import natural_key

_log = logging.getLogger(__name__)

_IMAGES = "images"

# By name, since a folder may hold anything else. HEIC is a picture that cannot be read: it is to be said, not ignored.
_PICTURE_ENDINGS = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".ico", ".heic", ".heif"),
}


def is_picture_name(name: str) -> bool:
    """Whether a file is a picture by its ending."""
    return Path(name).suffix.lower() in _PICTURE_ENDINGS


def read_image_folder(folder: Path, settings: DataSettings) -> list[Sample]:
    """Every picture of a folder, in natural order of names (2 before 10), with its references.

    Pictures are the files with a picture's ending in `folder` and in `folder/images`, hidden ones left out, and
    whatever else in there (subfolders too) captions.json names. It lies in `folder` or in the folder above; its
    names are looked up in the `images` folder beside it, then beside it, then in `folder`. Pictures without
    references have no captions. All samples have the split "test".

    A captions.json about more pictures than the folder has is fine, unless this is the folder that it belongs to
    (`folder` or `folder/images` in the layout of a data folder): then a missing picture is an error.

    Args:
        folder: the folder, or a data folder (captions.json and images/), or the images/ of one.
        settings: `on_bad_data`, `language` (of the references), `max_image_pixels` and the prompts are used.

    Raises:
        ImageCapError: there is no such folder, no picture in it, or something in it is bad and `on_bad_data` is
            "stop". With "skip" the bad pictures and rows are left out and logged as a warning.
    """
    folder = Path(os.path.abspath(folder.expanduser()))  # noqa: PTH100  (also resolves `images/..`)
    if not folder.is_dir():
        raise ImageCapError(f"the folder of pictures {folder} does not exist")
    by_file: dict[Path, list[Row]] = {path: [] for path in (*_pictures_in(folder), *_pictures_in(folder / _IMAGES))}
    problems = _add_references(by_file, folder, settings)
    names = _names(by_file, folder)
    digests, unreadable = digest_files(by_file, settings, names.__getitem__)
    problems += unreadable
    stop_on_errors(problems, folder, settings)

    repeats = Repeats()
    samples = []
    for path in sorted(digests, key=lambda path: natural_key(names[path])):
        rows = (row for row in by_file[path] if settings.language in ("all", row.caption.language))
        # The digest is the file's own here: each file is a result of its own, with all its references.
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


def _add_references(by_file: dict[Path, list[Row]], folder: Path, settings: DataSettings) -> list[Problem]:
    """Put the rows of captions.json, if there is one, to the pictures of `folder`."""
    home = next((place for place in (folder, folder.parent) if captions_file(place).is_file()), None)
    if home is None:
        return []
    rows, problems = read_rows(captions_file(home), settings)
    finders = [PictureFinder(place) for place in dict.fromkeys((home / _IMAGES, home, folder)) if place.is_dir()]
    belongs = (home / _IMAGES).is_dir() and folder in (home, home / _IMAGES)
    elsewhere: list[Problem] = []
    for name, named in _by_name(rows).items():
        found = _find(name, finders)
        if isinstance(found, PictureError):
            (problems if belongs else elsewhere).append(picture_problem(named, found))
        elif folder in found.parents:
            by_file.setdefault(found, []).extend(named)
    if elsewhere and not any(by_file.values()):
        _log.warning("%s names none of the pictures in %s:\n%s", captions_file(home), folder, problem_lines(elsewhere))
    return problems


def _find(name: str, finders: Iterable[PictureFinder]) -> Path | PictureError:
    """The file that a row means, or why the first place that was looked at has none."""
    error: PictureError | None = None
    for finder in finders:
        try:
            return finder.find(name)
        except PictureError as found:
            error = error or found
    assert error is not None
    return error


def _by_name(rows: Iterable[Row]) -> dict[str, list[Row]]:
    names: dict[str, list[Row]] = {}
    for row in rows:
        names.setdefault(row.image, []).append(row)
    return names


def _names(by_file: dict[Path, list[Row]], folder: Path) -> dict[Path, str]:
    """How results call each picture: as captions.json does, else relative to `folder`; no two alike."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path, rows in by_file.items():
        relative = path.relative_to(folder).as_posix()
        name = rows[0].image if rows else relative.removeprefix(f"{_IMAGES}/")
        names[path] = relative if name in taken else name
        taken.add(names[path])
    return names
