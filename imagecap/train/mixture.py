"""The pictures of an epoch from data sets with weights (`mix`), computed for each place of the epoch.

Each data set is gone through again and again, every time in another order. An epoch takes up where the one before it
ended: with a weight of 0.5 it takes one half of the data set and the next epoch the other half, and with a weight of 3
it goes through it three times. So all pictures of a data set have been used equally often, or once more, at any time.
"""

from collections.abc import Mapping
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from imagecap.data.data_sets import set_numbers, uses_in_epoch
from imagecap.data.samples import Samples
from imagecap.train.permutation import permuted, permuted_at

Indices = NDArray[np.int64]

_PASS_STREAM = 3  # last part of a seed, which makes the random numbers independent of others


class Mixture:
    """Which pictures an epoch uses, how often and in which order.

    Args:
        samples: the pictures, in the order of the plan.
        weights: of each data set, by its name. Without any, an epoch uses every picture once.
        seed: chooses the order.

    Attributes:
        size: number of pictures of an epoch; one that it uses twice counts twice.

    Raises:
        ImageCapError: a picture is of none of the data sets, or none has a weight.
    """

    def __init__(self, samples: Samples, weights: Mapping[str, Fraction], seed: int) -> None:
        self._seed = seed
        # with equal weights of 1 the order is that of a single data set
        if all(weight == 1 for weight in weights.values()):
            weights = {}
        numbers = set_numbers(samples, weights) if weights else np.zeros(len(samples), np.int64)
        self._members = [np.flatnonzero(numbers == number) for number in range(max(1, len(weights)))]
        self._uses = [
            uses_in_epoch(len(members), weight)
            for members, weight in zip(self._members, weights.values() or [Fraction(1)], strict=True)
        ]
        self._weighted = bool(weights)
        self._ends = np.cumsum(self._uses)
        self.size = int(self._ends[-1])

    def pictures(self, start: int, stop: int, epoch: int) -> tuple[Indices, Indices]:
        """The pictures at the places `start` to `stop` of an epoch.

        Returns:
            The index of each picture, and how often all pictures of its data set had been used before.
        """
        places = permuted(start, stop, self.size, [self._seed, epoch])
        if not self._weighted:
            return places, np.full_like(places, epoch)
        pictures, passes = np.empty_like(places), np.empty_like(places)
        sets = np.searchsorted(self._ends, places, side="right")
        for number in np.unique(sets).tolist():
            chosen = sets == number
            uses, members = self._uses[number], self._members[number]
            first, begun = divmod(epoch * uses, len(members))  # whole passes before this epoch, and uses of the next
            further, positions = np.divmod(places[chosen] - (self._ends[number] - uses) + begun, len(members))
            elements = np.empty_like(positions)
            for each in np.unique(further).tolist():
                of_pass = further == each
                seed = [self._seed, first + each, number, _PASS_STREAM]
                elements[of_pass] = permuted_at(positions[of_pass], len(members), seed)
            pictures[chosen], passes[chosen] = members[elements], first + further
        return pictures, passes

    def mean_sum(self, values: NDArray[np.int64]) -> float:
        """The sum of a value over all pictures of an epoch, in the mean over many epochs.

        Args:
            values: of each picture, `[pictures]`.
        """
        return sum(
            uses * int(values[members].sum()) / len(members)
            for uses, members in zip(self._uses, self._members, strict=True)
            if uses
        )
