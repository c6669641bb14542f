"""Sequences of values that are made when they are asked for, in the memory of their numbers."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

Value = TypeVar("Value")
Numbers = Sequence[int] | NDArray[Any]


class View(Sequence[Value], Generic[Value]):
    """The values of some numbers, in order.

    Args:
        make: makes the value of a number; it may be called several times for one.
        numbers: any integers, such as places in another sequence; an array takes the least memory.
    """

    def __init__(self, make: Callable[[int], Value], numbers: Numbers) -> None:
        self._make, self._numbers = make, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Value: ...

    @overload
    def __getitem__(self, index: slice) -> "View[Value]": ...

    def __getitem__(self, index: int | slice) -> "Value | View[Value]":
        if isinstance(index, slice):
            return View(self._make, self._numbers[index])
        return self._make(int(self._numbers[index]))

    def __eq__(self, other: object) -> bool:
        """Whether another sequence holds equal values in the same order."""
        if not isinstance(other, View | list | tuple):
            return NotImplemented
        return len(self) == len(other) and all(ours == theirs for ours, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as for lists


def chosen(values: Sequence[Value], numbers: Numbers) -> View[Value]:
    """The values at some places of a sequence."""
    return View(values.__getitem__, numbers)


def positions(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Where a mask is true. `[trues]`"""
    return np.flatnonzero(mask).astype(np.int32)
