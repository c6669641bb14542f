"""The captions that a model made of the items of an evaluation, in columns: many captions take little memory."""

from array import array
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from imagecap.generate.generated import GeneratedCaption


class MadeCaptions(Sequence[str]):
    """The text of the caption of each item, and what else is known of it.

    Args:
        items: number of items. Their captions are added in any order.
        max_length: the length limit in tokens.
        ends: tokens that end a caption.

    Attributes:
        scores: of the captions. `[items]`
        tokens: numbers of tokens. `[items]`
        truncated: whether the length limit ended the caption, and not an end token. `[items]`
    """

    def __init__(self, items: int, max_length: int, ends: Collection[int]) -> None:
        self._max_length, self._ends = max_length, ends
        self.scores: NDArray[np.float64] = np.zeros(items)
        self.tokens: NDArray[np.int32] = np.zeros(items, np.int32)
        self.truncated: NDArray[np.bool_] = np.zeros(items, bool)
        self._numbers: NDArray[np.int32] = np.full(items, -1, np.int32)  # of each item's text, in the order of adding
        self._texts, self._starts = bytearray(), array("q", [0])

    def add(self, place: int, caption: "GeneratedCaption") -> None:
        """Add the caption of the item at a place."""
        ids = caption.token_ids
        self.scores[place], self.tokens[place] = caption.score, len(ids)
        self.truncated[place] = len(ids) >= self._max_length and ids[-1] not in self._ends
        self._numbers[place] = len(self._starts) - 1
        self._texts += caption.text.encode("utf-8", "surrogatepass")
        self._starts.append(len(self._texts))

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        number = int(self._numbers[index])
        if number < 0:
            raise IndexError(f"item {index} has no caption")
        return self._texts[self._starts[number] : self._starts[number + 1]].decode("utf-8", "surrogatepass")
