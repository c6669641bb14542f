"""Groups of pictures that look the same, so that their captions can be corrected beside each other."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imagecap.data.alike import near_pairs
from imagecap.data.decoding import digest_pictures
from imagecap.data.images import PictureError
from imagecap.data.perceptual import Hashes

_AT_ONCE = 512  # pictures that are decoded between two reports of progress


def hashes_of(
    paths: Sequence[Path | None], max_pixels: int, progress: Callable[[int], None]
) -> tuple[Hashes, NDArray[np.bool_]]:
    """The difference hash of each picture; files that were decoded before are not decoded again.

    Args:
        paths: where the pictures are; None: a picture is missing.
        max_pixels: see `load_image`.
        progress: is told the number of pictures that are done. It may raise an exception to stop.

    Returns:
        The hashes `[pictures, 4]`, and which of them are known: pictures that cannot be read have none. `[pictures]`
    """
    hashes, known = np.zeros((len(paths), 4), np.uint64), np.zeros(len(paths), bool)
    for start in range(0, len(paths), _AT_ONCE):
        numbers = [number for number in range(start, min(start + _AT_ONCE, len(paths))) if paths[number] is not None]
        files = [path for number in numbers if (path := paths[number]) is not None]
        for number, facts in zip(numbers, digest_pictures(files, max_pixels, hashed=True), strict=True):
            if not isinstance(facts, PictureError) and facts.hash is not None:
                hashes[number], known[number] = np.frombuffer(facts.hash, np.uint64), True
        progress(min(start + _AT_ONCE, len(paths)))
    return hashes, known


def groups_of(hashes: Hashes, known: NDArray[np.bool_]) -> NDArray[np.int32]:
    """The number of each picture's group; -1 where it resembles no other. `[pictures]`

    Pictures are in one group if a chain of near duplicates joins them. The number is that of its first picture.

    Args:
        hashes: of the pictures. `[pictures, 4]`
        known: which of them count. `[pictures]`
    """
    numbers = np.flatnonzero(known)
    distinct, inverse = np.unique(hashes[numbers], axis=0, return_inverse=True)
    group = np.arange(len(distinct))
    for pairs in near_pairs(distinct):
        for left, right in np.stack(pairs, 1).tolist():
            first, second = _root(group, left), _root(group, right)
            group[max(first, second)] = min(first, second)
    roots = np.array([_root(group, each) for each in range(len(group))], np.int64)[inverse.reshape(-1)]
    result = np.full(len(hashes), -1, np.int32)
    _, firsts, place, counts = np.unique(roots, return_index=True, return_inverse=True, return_counts=True)
    several = counts[place] > 1
    result[numbers[several]] = numbers[firsts[place[several]]]
    return result


def _root(group: NDArray[np.int64], each: int) -> int:
    """The first of the group that a hash is in; the way to it is made shorter for the next time."""
    while group[each] != each:
        group[each] = group[group[each]]
        each = int(group[each])
    return each
