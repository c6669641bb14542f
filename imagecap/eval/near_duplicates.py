"""Test pictures that look like training pictures: a score on them says little about new ones.

Pictures are compared by a difference hash of 256 bits (each says whether a spot is brighter than the one to its left,
after N. Krawetz' dHash), which rescaling, compression and small retouches hardly change.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagecap.data.decoding import map_pictures
from imagecap.data.images import PictureError
from imagecap.data.records import Sample

SIDE = 16
ALIKE_BITS = 12  # of 256; unrelated photographs differ in about 128
PICTURES = 20_000  # of each side; more are passed over, evenly
_ROWS = 64


def near_duplicates(test: Sequence[Sample], training: Sequence[Sample], max_pixels: int) -> list[tuple[str, str]]:
    """Names of test pictures with that of a training picture that looks the same, in the order of `test`.

    Raises:
        PictureError: a picture cannot be read.
    """
    step = max(1, -(-len(training) // PICTURES))
    pool, asked = list(training)[::step], list(test)[:PICTURES]
    if not pool or not asked:
        return []
    theirs = _hashes([sample.path for sample in pool], max_pixels)
    ours = _hashes([sample.path for sample in asked], max_pixels)
    found = []
    for start in range(0, len(ours), _ROWS):
        distance = np.bitwise_count(ours[start : start + _ROWS, None] ^ theirs[None]).sum(-1, dtype=np.int32)
        nearest = distance.argmin(1)
        for row, place in enumerate(nearest.tolist()):
            if distance[row, place] <= ALIKE_BITS:
                found.append((asked[start + row].image, pool[place].image))
    return found


def _hashes(paths: Sequence[Path], max_pixels: int) -> NDArray[np.uint64]:
    """`difference_hash` of each file. `[paths, 4]`"""
    hashes = []
    for path, found in zip(paths, map_pictures(difference_hash, paths, max_pixels), strict=True):
        if isinstance(found, PictureError):
            raise PictureError(found.reason, str(path))
        hashes.append(found)
    return np.stack(hashes)


def difference_hash(image: Image.Image) -> NDArray[np.uint64]:
    """256 bits as four numbers. `[4]`"""
    small = np.asarray(image.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX), dtype=np.int16)
    bits = small[:, 1:] > small[:, :-1] + 2  # flat areas are 0 whatever their noise
    return np.packbits(bits.flatten()).view(np.uint64)
