"""The perceptual hash of a picture, which rescaling, compression and small retouches hardly change.

It is the difference hash (dHash: Krawetz 2013) with 256 bits, made of a picture that Pillow has scaled down. Why it is
not that of the library ImageHash: `python -m benchmarks.perceptual_hashes`.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Hashes = NDArray[np.uint64]
"""Difference hashes, `[pictures, 4]`."""

SIDE = 16
_MARGIN = 2


def difference_hash(image: Image.Image) -> NDArray[np.uint64]:
    """The difference hash: whether each spot is brighter than the one to its left, 256 bits as 4 integers. `[4]`"""
    # the spots overlap, so that a change of size or a small crop moves no pixel from one to another as a whole
    small = np.asarray(image.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BILINEAR), dtype=np.int16)
    bits = small[:, 1:] > small[:, :-1] + _MARGIN  # the margin keeps noise in flat areas from setting bits
    return np.packbits(bits.flatten()).view(np.uint64)
