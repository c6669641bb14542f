"""Test pictures that look like training pictures: scores on them say little about new pictures.

Pictures are compared by a perceptual hash, the difference hash (dHash: Krawetz 2013) with 256 bits. Rescaling,
compression and small retouches hardly change it.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagecap.data.decoding import map_pictures
from imagecap.data.images import PictureError
from imagecap.data.locations import Location
from imagecap.data.records import Sample

SIDE = 16
ALIKE_BITS = 12
"""Hashes that differ in at most this many of 256 bits are of near duplicates; unrelated photographs differ in 128."""
PICTURES = 20_000
"""Number of pictures of each kind that are compared."""
_ROWS = 64


def near_duplicates(test: Sequence[Sample], training: Sequence[Sample], max_pixels: int) -> list[tuple[str, str]]:
    """Find test pictures that look the same as a training picture.

    Args:
        test: test samples; only the first `PICTURES` are looked at.
        training: training samples; of more than `PICTURES`, evenly spaced ones are looked at.
        max_pixels: larger pictures are refused.

    Returns:
        Names of a test picture and of the most similar training picture, in the order of `test`.

    Raises:
        PictureError: a picture cannot be read.
    """
    step = max(1, -(-len(training) // PICTURES))
    pool, asked = list(training)[::step], list(test)[:PICTURES]
    if not pool or not asked:
        return []
    known = difference_hashes([sample.path for sample in pool], max_pixels)
    hashes = difference_hashes([sample.path for sample in asked], max_pixels)
    found = []
    for start in range(0, len(hashes), _ROWS):
        distance = np.bitwise_count(hashes[start : start + _ROWS, None] ^ known[None]).sum(-1, dtype=np.int32)
        nearest = distance.argmin(1)
        for row, place in enumerate(nearest.tolist()):
            if distance[row, place] <= ALIKE_BITS:
                found.append((asked[start + row].image, pool[place].image))
    return found


def difference_hashes(paths: Sequence[Location], max_pixels: int) -> NDArray[np.uint64]:
    """The difference hash of each picture file; files are decoded in parallel. `[paths, 4]`"""
    hashes = []
    for path, found in zip(paths, map_pictures(difference_hash, paths, max_pixels), strict=True):
        if isinstance(found, PictureError):
            raise PictureError(found.reason, str(path))
        hashes.append(found)
    return np.stack(hashes)


def difference_hash(image: Image.Image) -> NDArray[np.uint64]:
    """The difference hash: whether each spot is brighter than the one to its left, 256 bits as 4 integers. `[4]`"""
    small = np.asarray(image.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX), dtype=np.int16)
    bits = small[:, 1:] > small[:, :-1] + 2  # the margin keeps noise in flat areas from setting bits
    return np.packbits(bits.flatten()).view(np.uint64)
