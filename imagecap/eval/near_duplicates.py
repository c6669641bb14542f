"""Test pictures that look like training pictures: scores on them say little about new pictures."""

from collections.abc import Sequence

import numpy as np

from imagecap.data.alike import find_alike
from imagecap.data.decoding import map_pictures
from imagecap.data.images import PictureError
from imagecap.data.locations import Location
from imagecap.data.perceptual import Hashes, difference_hash
from imagecap.data.records import Sample
from imagecap.data.samples import Samples

PICTURES = 20_000
"""Number of pictures of each kind that are decoded where their hashes are not known."""


def near_duplicates(test: Sequence[Sample], training: Sequence[Sample], max_pixels: int) -> list[tuple[str, str]]:
    """Find test pictures that look the same as a training picture.

    All pictures are compared where their hashes are known (see `Samples.hashes`).

    Args:
        test: test samples; without hashes only the first `PICTURES` are looked at.
        training: training samples; of more than `PICTURES` without hashes, evenly spaced ones are looked at.
        max_pixels: larger pictures are refused.

    Returns:
        Names of a test picture and of a training picture that it resembles, in the order of `test`.

    Raises:
        PictureError: a picture cannot be read.
    """
    known, asked = _known_hashes(training), _known_hashes(test)
    if known is None or asked is None:
        training, test = training[:: max(1, -(-len(training) // PICTURES))], test[:PICTURES]
        if not training or not test:
            return []
        known, asked = (difference_hashes([each.path for each in part], max_pixels) for part in (training, test))
    found = find_alike(asked, known)
    return [(test[row].image, training[int(found[row])].image) for row in np.flatnonzero(found >= 0).tolist()]


def difference_hashes(paths: Sequence[Location], max_pixels: int) -> Hashes:
    """The difference hash of each picture file; files are decoded in parallel. `[paths, 4]`"""
    hashes = []
    for path, found in zip(paths, map_pictures(difference_hash, paths, max_pixels), strict=True):
        if isinstance(found, PictureError):
            raise PictureError(found.reason, str(path))
        hashes.append(found)
    return np.stack(hashes)


def _known_hashes(samples: Sequence[Sample]) -> Hashes | None:
    return samples.hashes if isinstance(samples, Samples) else None
