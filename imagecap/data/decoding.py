"""Decoding many pictures, each once and on all cores: for their digests, or for whatever else is made of pixels."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TypeAlias, TypeVar

from PIL import Image

from imagecap.data.digest_cache import cached_facts, remember_facts
from imagecap.data.identity import picture_digest
from imagecap.data.images import PictureError, decode_image, load_image, open_image
from imagecap.data.locations import Location
from imagecap.data.perceptual import difference_hash
from imagecap.data.prefetch import prefetch
from imagecap.data.progress import progress_bar
from imagecap.data.records import PictureFacts

Result = TypeVar("Result")
Facts: TypeAlias = dict[Location, PictureFacts | PictureError]

# Pictures of at least this many pixels are decoded one at a time: eight of 100 megapixels would take several GB.
LARGE_PIXELS = 16_000_000


def digest_pictures(
    paths: Sequence[Location],
    max_pixels: int,
    known: Mapping[Location, PictureFacts | PictureError] | None = None,
    threads: int | None = None,
    hashed: bool = False,
) -> list[PictureFacts | PictureError]:
    """The digest and size of each picture, or the reason why it cannot be read.

    Files that have not changed since they were decoded are not decoded again; see `digest_cache`. When it takes long, a
    progress bar appears on stderr, if that is a terminal.

    Args:
        paths: where the pictures are.
        max_pixels: see `load_image`.
        known: what is known of pictures, which are not looked at.
        threads: see `map_pictures`.
        hashed: whether the difference hash is wanted too.
    """
    results: Facts = dict(known or {})
    results |= known_facts([path for path in paths if path not in results], max_pixels, hashed)
    unknown = [path for path in paths if path not in results]
    decoded: dict[Path, PictureFacts] = {}
    facts = map_pictures(partial(_facts_of, hashed=hashed), unknown, max_pixels, threads)
    with progress_bar(len(unknown), "checking pictures", "picture", shown=threads != 1) as bar:
        for location, found in zip(unknown, facts, strict=True):
            results[location] = found
            if isinstance(location, Path) and not isinstance(found, PictureError):
                decoded[location] = found
            bar.update()
    remember_facts(decoded)
    return [results[path] for path in paths]


def known_facts(paths: Sequence[Location], max_pixels: int, hashed: bool = False) -> Facts:
    """What the cache knows of files that have not changed since they were decoded. Arguments: see `digest_pictures`."""
    files = [path for path in paths if isinstance(path, Path)]
    found = cached_facts(files, max_pixels, lambda path: _facts_at(path, max_pixels))
    return {path: facts for path, facts in found.items() if facts.hash is not None or not hashed}


def _facts_of(image: Image.Image, hashed: bool = False) -> PictureFacts:
    return PictureFacts(picture_digest(image), *image.size, difference_hash(image).tobytes() if hashed else None)


def _facts_at(path: Path, max_pixels: int) -> PictureFacts | None:
    try:
        return _facts_of(load_image(path, max_pixels))
    except PictureError:
        return None


def map_pictures(
    work: Callable[[Image.Image], Result], paths: Sequence[Location], max_pixels: int, threads: int | None = None
) -> Iterator[Result | PictureError]:
    """Yield `work(picture)` for each path, in order, or the reason why the file cannot be read.

    Memory does not grow with the number of pictures, as long as results are small.

    Args:
        work: called in threads with a picture as `load_image` returns it; an exception that it raises is raised here
            when the turn of its picture comes.
        paths: where the pictures are.
        max_pixels: see `load_image`.
        threads: how many pictures are decoded at once; None: one per core that this process may use, at most 8.
    """
    threads = threads or default_threads()
    if threads == 1:
        return map(picture_reader(work, max_pixels), paths)
    return prefetch(picture_reader(work, max_pixels), paths, threads=threads, ahead=8 * threads)


def picture_reader(
    work: Callable[[Image.Image], Result], max_pixels: int, least_side: int | None = None
) -> Callable[[Location], Result | PictureError]:
    """A function that reads one picture for `map_pictures`; several threads may call it at once.

    Args:
        work: see `map_pictures`.
        max_pixels: see `load_image`.
        least_side: see `load_image`.
    """
    one_large = Lock()

    def decode(path: Location) -> Result | PictureError:
        try:
            with open_image(path, max_pixels) as opened:
                if opened.width * opened.height < LARGE_PIXELS:
                    return work(decode_image(opened, path, least_side))
            with one_large:  # opened anew, so that its pixels are freed before the next large picture is decoded
                return work(load_image(path, max_pixels, least_side))
        except PictureError as error:
            return PictureError(error.reason)  # a new one: the traceback of `error` would keep the pixels alive

    return decode


def default_threads() -> int:
    """How many threads decode pictures: one per core that this process may use, at most 8."""
    return min(8, _available_cores())


def _available_cores() -> int:
    """Cores that this process may use: fewer than the machine's in a container or under `taskset`."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
