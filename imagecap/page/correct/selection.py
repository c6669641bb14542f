"""Which rows of a queue are shown, and in which order. Both are computed on columns."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from imagecap.errors import ImageCapError
from imagecap.page.correct.columns import LANGUAGE_CODES, STATES, Columns, Mask, Rows

ORDERS = ("file", "certainty", "doubt", "uncaptioned", "alike")
"""As in the file; least certain first; likeliest wrong first; uncaptioned first; near duplicates beside each other."""


@dataclass(frozen=True)
class Filter:
    """What the rows that are shown have in common; None and empty texts allow everything.

    Attributes:
        state: one of `STATES`.
        language: one of `LANGUAGE_CODES`; "none" for pictures without caption.
        word: what the caption contains, in capitals or small letters.
        shortest, longest: characters of the caption.
        least, most: certainty in per cent.
        alike: whether only pictures that resemble others are shown.
    """

    state: str = ""
    language: str = ""
    word: str = ""
    shortest: int | None = None
    longest: int | None = None
    least: float | None = None
    most: float | None = None
    alike: bool = False

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Filter":
        """Make a filter of the texts in an address or the values in a request; unknown names are left out.

        Raises:
            ImageCapError: a value cannot be understood.
        """
        found: dict[str, Any] = {}
        for each in fields(cls):
            value = values.get(each.name)
            if value in (None, ""):
                continue
            try:
                if each.name in ("shortest", "longest"):
                    value = int(value)
                elif each.name in ("least", "most"):
                    value = float(value)
                elif each.name == "alike":
                    value = value in (True, "1", "true")
                else:
                    value = str(value)
            except (TypeError, ValueError):
                raise ImageCapError(f"the filter {each.name} must be a number, not {str(value)[:40]}") from None
            found[each.name] = value
        if found.get("state", STATES[0]) not in STATES:
            raise ImageCapError(f"there is no state {found['state'][:40]}; choose one of {', '.join(STATES)}")
        if found.get("language", "none") not in ("none", *LANGUAGE_CODES):
            raise ImageCapError(f"there is no language {found['language'][:40]}")
        return cls(**found)


@dataclass(frozen=True)
class Page:
    """A page of rows.

    Attributes:
        rows: the rows of the page.
        total: number of rows that pass the filter.
        position: number of those that come before the page.
    """

    rows: list[int]
    total: int
    position: int


def passing(columns: Columns, wanted: Filter) -> Mask:
    """Which rows pass a filter. `[rows]`"""
    mask: Mask = np.ones(len(columns), bool)
    if wanted.state:
        mask &= columns.state == STATES.index(wanted.state)
    if wanted.language:
        mask &= columns.language == LANGUAGE_CODES.index("" if wanted.language == "none" else wanted.language)
    if wanted.shortest is not None:
        mask &= columns.length >= wanted.shortest
    if wanted.longest is not None:
        mask &= columns.length <= wanted.longest
    if wanted.least is not None:
        mask &= columns.certainty >= wanted.least / 100
    if wanted.most is not None:
        mask &= columns.certainty <= wanted.most / 100
    if wanted.alike:
        mask &= columns.group >= 0
    if wanted.word:
        mask &= columns.captions.contain(wanted.word)
    return mask


def ordered(columns: Columns, order: str) -> Rows:
    """All rows in one of `ORDERS`. It does not depend on what people decide, so that pages stay as they are. `[rows]`

    Raises:
        ImageCapError: there is no such order.
    """
    rows = np.arange(len(columns))
    if order == "file":
        return rows
    if order == "certainty":
        return np.lexsort([rows, _last(columns.certainty)])
    if order == "doubt":
        return np.lexsort([rows, _last(columns.certainty), _last(-columns.doubt)])
    if order == "uncaptioned":
        return np.lexsort([rows, ~columns.uncaptioned])
    if order == "alike":
        group = np.where(columns.group < 0, np.iinfo(np.int32).max, columns.group)
        return np.lexsort([rows, group])
    raise ImageCapError(f"there is no order {order[:40]}; choose one of {', '.join(ORDERS)}")


def page_of(
    columns: Columns, wanted: Filter, order: str, limit: int, after: int | None = None, before: int | None = None
) -> Page:
    """The rows that follow the row `after`, or precede the row `before`, among those that pass a filter.

    These two rows need not pass it any more, so that somebody who has decided about a whole page sees the next one.

    Args:
        columns: the rows.
        wanted: the filter.
        order: one of `ORDERS`.
        limit: number of rows of a page.
        after: the last row of the page before; None for the first page.
        before: the first row of the page after, which counts where `after` is None. Where fewer rows than a page
            precede it, the first page is returned.
    """
    sequence = ordered(columns, order)
    places = np.flatnonzero(passing(columns, wanted)[sequence])
    start = 0
    if after is not None:
        start = int(np.searchsorted(places, _place(sequence, after), side="right"))
    elif before is not None:
        start = max(0, int(np.searchsorted(places, _place(sequence, before))) - limit)
    return Page(sequence[places[start : start + limit]].tolist(), len(places), start)


def _place(sequence: Rows, row: int) -> int:
    """Where a row stands in an order; -1 if there is no such row."""
    found = np.flatnonzero(sequence == row)
    return int(found[0]) if len(found) else -1


def _last(values: np.ndarray) -> np.ndarray:
    """The values with infinity in the place of those that are not known, which come last."""
    return np.where(np.isnan(values), np.inf, values)
