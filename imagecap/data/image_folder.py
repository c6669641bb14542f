"""Reading a folder of pictures to be captioned and, where references lie in it or beside it, to be evaluated."""

import logging
import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from imagecap.config import DataSettings
from imagecap.data.decoding import digest_pictures
from imagecap.data.filters import without_filters
from imagecap.data.folders import entries_of, is_file, is_folder, is_same
from imagecap.data.formats import Source, find_source, no_shards_in
from imagecap.data.grouping import Repeats, digest_files, picture_problem, rows_by_name, stop_on_errors
from imagecap.data.images import PictureError
from imagecap.data.locations import Location, file_of
from imagecap.data.picture_files import is_picture_name
from imagecap.data.reading import read_source
from imagecap.data.records import CaptionRow, Problem, Sample, problem_lines
from imagecap.data.remote import RemotePath, data_place
from imagecap.data.samples import Samples
from imagecap.errors import ImageCapError
from imagecap.files import natural_key
from imagecap.printable import printable
from imagecap.surroundings.dvc_ignore import DvcIgnore

_log = logging.getLogger(__name__)

_IMAGES = "images"


def read_image_folder(folder: Path, settings: DataSettings) -> Sequence[Sample]:
    """Read every picture of a folder, in natural order of names (2 before 10), with its references.

    Pictures are the files in `folder` and in `folder/images` that have a picture's ending and are not hidden, and
    those anywhere below `folder` that captions.json names. captions.json may lie in `folder` or in the folder above.
    Its names are looked up in the folder `images` beside it, then beside it, then in `folder`. A picture without
    references has no captions. All samples have the split "test".

    captions.json may name pictures that are not in `folder`. Only in a data folder (`folder` or `folder/images` has
    the layout of one) is a missing picture an error. Shards are read as they are, in their order.

    Args:
        folder: a folder of pictures, a data folder (captions.json and images/), or the images/ of a data folder.
        settings: `on_bad_data`, `language` (of the references), `max_image_pixels` and the prompts are used.

    Raises:
        ImageCapError: the folder does not exist, no picture in it can be read, or a picture or row is bad and
            `on_bad_data` is "stop". With "skip" bad pictures and rows are left out and logged as a warning.
    """
    folder = data_place(folder)
    if not folder.is_dir():
        raise ImageCapError(f"the folder of pictures {folder} does not exist")
    source = find_source(folder, settings)
    if source is not None and source.format.sharded:
        return _read_shards(source, settings)
    if isinstance(folder, RemotePath):
        raise no_shards_in(folder)
    places = [folder] if is_same(folder, folder / _IMAGES) else [folder, folder / _IMAGES]
    by_file: dict[Location, list[CaptionRow]] = {path: [] for place in places for path in _pictures_in(place)}
    problems = _add_references(by_file, folder, source, settings)
    _tell_of_subfolders(by_file, places)
    names = _names(by_file, folder)
    facts, unreadable = digest_files(
        by_file, partial(digest_pictures, max_pixels=settings.max_image_pixels), names.__getitem__
    )
    problems += unreadable
    stop_on_errors(problems, folder, settings)

    repeats = Repeats()
    samples = []
    for path in sorted(facts, key=lambda path: natural_key(names[path])):
        rows = (row for row in by_file[path] if settings.language in ("all", row.caption.language))
        # every file is a result of its own here: the same pixels under another name keep all their references
        captions = repeats.captions(str(path), rows)
        samples.append(Sample(names[path], path, facts[path].digest, "test", captions))
    problems += repeats.problems()
    if problems:
        _log.warning("%s:\n%s", folder, problem_lines(problems))
    if not samples:
        raise ImageCapError(f"there are no pictures that can be read in {folder}")
    return samples


def _pictures_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    ignored_by_dvc = DvcIgnore(folder)
    return [
        folder / entry.name
        for entry in entries_of(folder)
        if is_picture_name(entry.name)
        and not entry.name.startswith(".")
        and is_file(entry)
        and not ignored_by_dvc(folder / entry.name)
    ]


def _tell_of_subfolders(by_file: Iterable[Location], places: Sequence[Path]) -> None:
    """Log a warning of the subfolders whose pictures are left out, since no captions file names any of them."""
    used = {parent for path in by_file for parent in file_of(path).parents}
    left = [
        entry.path
        for place in places
        if place.is_dir()
        for entry in entries_of(place)
        if Path(entry.path) not in {*used, *places} and not entry.name.startswith(".") and _holds_pictures(entry)
    ]
    if left:
        shown = ", ".join(sorted(left, key=natural_key)[:5]) + (" …" if len(left) > 5 else "")
        _log.warning("pictures in subfolders are left out, as no captions file names them: %s", printable(shown))


def _holds_pictures(entry: "os.DirEntry[str]") -> bool:
    try:
        return is_folder(entry) and any(is_picture_name(inner.name) for inner in entries_of(Path(entry.path)))
    except ImageCapError:
        return False


def _read_shards(source: Source, settings: DataSettings) -> Samples:
    samples, problems, _ = read_source(source, without_filters(settings))
    stop_on_errors(problems, source.folder, settings)
    if problems:
        _log.warning("%s:\n%s", source.folder, problem_lines(problems))
    if not samples:
        raise ImageCapError(f"there are no pictures that can be read in {source.folder}")
    return samples.moved_to("test")


def _add_references(
    by_file: dict[Location, list[CaptionRow]], folder: Path, source: Source | None, settings: DataSettings
) -> list[Problem]:
    """Add the rows of the captions file, if there is one, to the pictures of `folder`; return their problems."""
    source = source or _source_above(folder, settings)
    if source is None:
        return []
    home = source.folder
    belongs = (home / _IMAGES).is_dir() and folder in (home, home / _IMAGES)
    problems: list[Problem] = []
    elsewhere: list[Problem] = []
    for finder, rows, found in source.read(settings, home, folder):
        problems += found
        assert finder is not None  # shards are read elsewhere
        for name, named in rows_by_name(rows).items():
            try:
                path = finder.find(name)
            except PictureError as error:
                (problems if belongs else elsewhere).append(picture_problem(named, error))
                continue
            if folder in path.parents:
                by_file.setdefault(path, []).extend(named)
    if elsewhere and not any(by_file.values()):
        _log.warning("%s names none of the pictures in %s:\n%s", source.files[0], folder, problem_lines(elsewhere))
    return problems


def _source_above(folder: Path, settings: DataSettings) -> Source | None:
    """The captions file in the folder above, which must be called `captions`: other files there may be anybody's."""
    source = find_source(folder.parent, settings) if any(folder.parent.glob("captions.*")) else None
    return source if source is not None and source.files[0].stem == "captions" else None


def _names(by_file: dict[Location, list[CaptionRow]], folder: Path) -> dict[Location, str]:
    """The name of each picture in results: that of captions.json or the path in `folder`. Names are unique."""
    names: dict[Location, str] = {}
    taken: set[str] = set()
    for path, rows in by_file.items():
        relative = printable(file_of(path).relative_to(folder).as_posix())
        name = rows[0].image if rows else relative.removeprefix(f"{_IMAGES}/")
        names[path] = relative if name in taken else name
        taken.add(names[path])
    return names
