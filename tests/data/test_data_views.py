"""Sequences of values that are made when they are asked for."""

import numpy as np
import pytest

from imagecap.data.views import View, chosen, positions


def test_values_are_made_when_they_are_asked_for() -> None:
    made: list[int] = []

    def make(number: int) -> str:
        made.append(number)
        return str(number)

    view = View(make, np.array([5, 3, 1], np.int32))
    assert len(view) == 3
    assert not made
    assert (view[0], view[-1], list(view[1:])) == ("5", "1", ["3", "1"])
    assert made == [5, 1, 3, 1]
    assert view == ["5", "3", "1"]
    assert view != ["5", "3"]
    with pytest.raises(IndexError):
        view[3]


def test_places_of_a_sequence() -> None:
    assert list(chosen("abc", positions(np.array([True, False, True])))) == ["a", "c"]
