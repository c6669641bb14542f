"""Digests of the pictures of a folder, each in a file of its own: many of them are decoded by several processes."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from imagecap.data.decoding import LARGE_PIXELS, Facts, digest_pictures, known_facts
from imagecap.data.images import PictureError, open_image
from imagecap.data.locations import Location
from imagecap.data.processes import map_in_processes, num_processes, own_order
from imagecap.data.progress import progress_bar
from imagecap.data.records import PictureFacts

_LEAST_FOR_PROCESSES = 4096  # pictures; fewer are decoded before processes would have started
_CHUNK = 512  # pictures that a process decodes before their facts are kept


def digest_loose_pictures(
    paths: Sequence[Location], max_pixels: int, hashed: bool = False
) -> list[PictureFacts | PictureError]:
    """The digest and size of each picture, as `digest_pictures` returns them.

    Of several processes of a distributed training on one machine, each begins at another picture, and none decodes what
    another one has decoded. What was found out is kept from time to time, so that a killed command does not lose it.

    Args:
        paths: where the pictures are.
        max_pixels: see `load_image`.
        hashed: whether the difference hash is wanted too.
    """
    found = known_facts(paths, max_pixels, hashed)
    unknown = [path for path in paths if isinstance(path, Path) and path not in found]
    processes = num_processes()
    if len(unknown) >= _LEAST_FOR_PROCESSES and (processes > 1 or int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > 1):
        chunks = own_order([unknown[start : start + _CHUNK] for start in range(0, len(unknown), _CHUNK)])
        work = partial(_digest_small, max_pixels=max_pixels, hashed=hashed)
        with progress_bar(len(unknown), "checking pictures", "picture") as bar:
            for each in map_in_processes(work, chunks, processes) if processes > 1 else map(work, chunks):
                found |= each
                bar.update(len(each))
    return digest_pictures(paths, max_pixels, found, hashed=hashed)


def _digest_small(paths: Sequence[Path], max_pixels: int, hashed: bool) -> Facts:
    """Digest pictures but large ones. Those are left to one process, which decodes one of them at a time."""
    small: list[Location] = [path for path in paths if not _is_large(path, max_pixels)]
    return dict(zip(small, digest_pictures(small, max_pixels, threads=1, hashed=hashed), strict=True))


def _is_large(path: Path, max_pixels: int) -> bool:
    try:
        with open_image(path, max_pixels) as opened:
            return opened.width * opened.height >= LARGE_PIXELS
    except PictureError:
        return False
