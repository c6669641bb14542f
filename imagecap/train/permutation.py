"""A shuffled order that is computed where it is needed, and never listed.

A Feistel network permutes the numbers below a power of four, and numbers outside the wanted range are permuted again
until they are inside ("cycle walking": Black and Rogaway 2002, Ciphers with Arbitrary Finite Domains).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 8
_FEWEST_BITS = 3  # of a half: with fewer, few of all permutations could come out


def permuted(start: int, stop: int, count: int, seed: Sequence[int]) -> NDArray[np.int64]:
    """Elements `start` to `stop` of a random permutation of `range(count)`.

    Args:
        start, stop: positions in the permutation.
        count: number of its elements.
        seed: chooses the permutation.
    """
    return permuted_at(np.arange(start, stop), count, seed)


def permuted_at(positions: NDArray[np.int64], count: int, seed: Sequence[int]) -> NDArray[np.int64]:
    """Elements of a random permutation of `range(count)` at these positions; see `permuted`."""
    keys = np.random.default_rng(list(seed)).integers(0, 1 << 63, _ROUNDS, np.uint64)
    bits = np.uint64(max(_FEWEST_BITS, ((count - 1).bit_length() + 1) // 2))
    values = _feistel(positions.astype(np.uint64), bits, keys)
    while (outside := values >= count).any():
        values[outside] = _feistel(values[outside], bits, keys)
    return values.astype(np.int64)


def _feistel(values: NDArray[np.uint64], bits: np.uint64, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Permute the numbers of 2 × `bits` bits."""
    mask = (np.uint64(1) << bits) - np.uint64(1)
    left, right = values >> bits, values & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & mask)
    return (left << bits) | right


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele et al. 2014): every bit of the result depends on every bit of the value."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
