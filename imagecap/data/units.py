"""Reading a unit: what is read at once, all captions files of a folder with loose pictures or a single shard.

The rows of a unit are checked and grouped by picture, its pictures are decoded, and what copies of a picture say about
its split is compared. The result is independent of other units and of the settings of the split.
"""

import gc
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from imagecap.config import DataSettings
from imagecap.data.decoding import digest_pictures
from imagecap.data.filters import CaptionFilter
from imagecap.data.formats import Source
from imagecap.data.grouping import DigestFunction, Repeats, add_rows_by_file, digest_files
from imagecap.data.images import PictureError
from imagecap.data.locations import Location, held_open
from imagecap.data.record_batches import plain_record_batches, record_batches
from imagecap.data.records import CaptionRow, LeftOut, PictureFacts, PlainPicture, Problem, Sample, Split
from imagecap.data.remote import copied
from imagecap.languages import ENGLISH


@dataclass(frozen=True)
class Unit:
    """What was read.

    Attributes:
        batches: the samples, see `imagecap.data.parts`; their paths are relative to the folder of the source.
        problems: in order of the rows.
        languages: number of captions by language, before `language` left out any.
        left_out: what settings left out; see `CaptionFilter`.
    """

    batches: list[pa.RecordBatch]
    problems: list[Problem]
    languages: Counter[str]
    left_out: LeftOut


def read_unit(source: Source, settings: DataSettings, digest: DigestFunction | None = None) -> Unit:
    """Read the captions files of a source and decode their pictures.

    Args:
        source: captions files of one folder, or a single shard.
        settings: those of the split, and `on_bad_data`, are not used.
        digest: gives the facts of pictures; default: `digest_pictures` with the settings.

    Raises:
        ImageCapError: a file cannot be read or has no rows, or the folder of its pictures is missing.
    """
    by_file: dict[Location, list[CaptionRow]] = {}
    problems: list[Problem] = []
    digest = digest or partial(digest_pictures, max_pixels=settings.max_image_pixels)
    with copied(*source.files):
        if CaptionFilter(settings).passes_plain:
            with _without_garbage_collection():
                pictures = source.plain_pictures(settings)
            if pictures is not None:
                locations: list[Location] = [each.location for each in pictures]
                with held_open(source.files[0]):
                    known = dict(zip(locations, digest(locations), strict=True))
                unit = _plain_unit(source, settings, pictures, list(known.values()))
                if unit is not None:
                    return unit
                digest = partial(_looked_up, known)
        with _without_garbage_collection():
            for finder, rows, bad in source.read(settings):
                problems += [*bad, *add_rows_by_file(by_file, rows, finder)]
        with held_open(source.files[0]) if source.format.sharded else nullcontext():
            facts, unreadable = digest_files(by_file, digest, str)
    with _without_garbage_collection():
        return _unit(source, settings, by_file, facts, [*problems, *unreadable])


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Pause the search for cyclic garbage, which goes through millions of rows again and again; rows form no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _unit(
    source: Source,
    settings: DataSettings,
    by_file: Mapping[Location, Sequence[CaptionRow]],
    facts: Mapping[Location, PictureFacts],
    problems: Sequence[Problem],
) -> Unit:
    """Make the samples of the pictures that could be decoded."""
    naming, conflicts = _rows_naming_splits(by_file, facts)
    problems = sorted([*problems, *conflicts.values()], key=lambda problem: problem.row or 0)
    samples: list[Sample] = []
    splits: list[Split | None] = []
    places: list[str] = []
    repeats, used = Repeats(), CaptionFilter(settings)
    rows_of = {path: by_file[path] for path, found in facts.items() if found.digest not in conflicts}
    languages = Counter[str](row.caption.language for rows in rows_of.values() for row in rows)
    for path, rows in rows_of.items():
        found = facts[path].digest
        captions = repeats.captions(found, used(rows))
        if captions:
            first = naming.get(found, by_file[path][0])
            samples.append(Sample(by_file[path][0].image, path, found, first.split or "train", captions))
            splits.append(first.split)
            places.append(first.place)
    batches = list(record_batches(samples, source.folder, splits, places, (facts[each.path] for each in samples)))
    return Unit(batches, problems + repeats.problems(), languages, used.left_out)


def _looked_up(
    known: Mapping[Location, PictureFacts | PictureError], locations: Sequence[Location]
) -> list[PictureFacts | PictureError]:
    return [known[each] for each in locations]


def _plain_unit(
    source: Source,
    settings: DataSettings,
    pictures: Sequence[PlainPicture],
    facts: Sequence[PictureFacts | PictureError],
) -> Unit | None:
    """What `_unit` makes of plain pictures, in columns, without an object for each row.

    None if a picture cannot be read, or a picture or one of its captions is there twice.
    """
    decoded = [each for each in facts if not isinstance(each, PictureError)]
    if len(decoded) < len(facts) or len({each.digest for each in decoded}) < len(facts):
        return None
    captions = sum(len(each.texts) for each in pictures)
    if sum(len(set(each.texts)) for each in pictures) < captions:
        return None
    language = ENGLISH.code
    split = source.splits.get(source.files[0])
    batches = plain_record_batches(pictures, decoded, source.folder, split, language, settings.prompt_of(language))
    return Unit(list(batches), [], Counter({language: captions}), CaptionFilter(settings).left_out)


def _rows_naming_splits(
    by_file: Mapping[Location, Sequence[CaptionRow]], facts: Mapping[Location, PictureFacts]
) -> tuple[dict[str, CaptionRow], dict[str, Problem]]:
    """The first row that names a picture's split, and a problem for each picture whose rows disagree, both by digest.

    Rows are compared by the content of their pictures. A copy under another name in another split would put a test
    picture into the training set.
    """
    first: dict[str, CaptionRow] = {}
    conflicts: dict[str, Problem] = {}
    for path, (digest, *_) in facts.items():
        for row in by_file[path]:
            if row.split is None:
                continue
            earlier = first.setdefault(digest, row)
            if earlier.split != row.split and digest not in conflicts:
                conflicts[digest] = split_conflict(
                    (earlier.image, earlier.place, earlier.split), (row.image, row.place, row.split), row.number
                )
    return first, conflicts


def split_conflict(
    earlier: tuple[str, str, Split | None], later: tuple[str, str, Split | None], row: int | None
) -> Problem:
    """The problem of two rows, each with image, place and split, that put pictures of equal pixels in two splits."""
    image, place, split = later
    same = "" if earlier[0] == image else f" for {earlier[0]}, which has the same pixels"
    message = f"the row puts the picture into {split}, but {earlier[1]} says {earlier[2]}{same}"
    return Problem(row, image, message, place=place)
