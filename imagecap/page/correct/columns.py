"""The rows of a queue in columns: a row of 100,000 costs about a hundred bytes beside its texts."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
from numpy.typing import NDArray

from imagecap.languages import LANGUAGES, language_of

Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]

STATES = ("open", "accepted", "edited", "skipped", "unusable")
"""What was decided about a caption: nothing yet, that it is right, a new text, to look later, not to use it."""

LANGUAGE_CODES = ("", *LANGUAGES)
"""Languages by the number that a column holds; the first is that of a picture without caption."""

_CHANGED = 4096  # texts that are held one by one before they are put among the others


class Texts:
    """Strings in an Arrow column, some of which have been replaced since."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._column: Any = pyarrow.array((well_formed(text) for text in texts), pyarrow.large_string())
        self._changed: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, row: int) -> str:
        changed = self._changed.get(row)
        return changed if changed is not None else str(self._column[row])

    def __setitem__(self, row: int, text: str) -> None:
        self._changed[row] = text
        if len(self._changed) > _CHANGED:
            self._column, self._changed = self._whole(), {}

    def __iter__(self) -> Iterator[str]:
        return (self[row] for row in range(len(self)))

    def extend(self, texts: Sequence[str]) -> None:
        """Append texts."""
        further = pyarrow.array([well_formed(text) for text in texts], pyarrow.large_string())
        self._column = pyarrow.concat_arrays([self._column, further])

    def contain(self, part: str, *, match_case: bool = False) -> Mask:
        """Which texts contain `part`. `[rows]`"""
        found = pyarrow.compute.match_substring(self._column, part, ignore_case=not match_case)
        mask: Mask = np.array(found.to_numpy(zero_copy_only=False), bool)
        wanted = part if match_case else part.casefold()
        for row, text in self._changed.items():
            mask[row] = wanted in (text if match_case else text.casefold())
        return mask

    def equal(self, text: str) -> Rows:
        """The rows with exactly this text, of texts none of which has changed. `[found]`"""
        return np.flatnonzero(np.array(pyarrow.compute.equal(self._column, text).to_numpy(zero_copy_only=False), bool))

    def _whole(self) -> Any:
        """The column with the texts that have changed."""
        mask = np.zeros(len(self._column), bool)
        rows = sorted(self._changed)
        mask[rows] = True
        texts = pyarrow.array([self._changed[row] for row in rows], pyarrow.large_string())
        return pyarrow.compute.replace_with_mask(self._column, pyarrow.array(mask), texts)


class Columns:
    """What is known of each row of a queue.

    Args:
        names: name of the picture of each row.
        captions: its caption; empty where the picture has none.
        languages: the code of the language that the source names for the caption; None where it names none.

    Attributes:
        names, captions: as given; captions are those of now.
        language: number in `LANGUAGE_CODES`. `[rows]`
        length: characters of the caption. `[rows]`
        state: number in `STATES`. `[rows]`
        revision: number of the journal entry that changed the row last; 0 if none did. `[rows]`
        uncaptioned: whether the picture came without a caption. `[rows]`
        certainty: geometric mean of the probabilities of the tokens of the model's caption; NaN where it is not known.
            `[rows]`
        doubt: how likely the caption is wrong, from 0 to 1; NaN where it is not known. `[rows]`
        group: number of the group of near duplicates; -1 where a picture resembles no other. `[rows]`
    """

    def __init__(self, names: Sequence[str], captions: Sequence[str], languages: Sequence[str | None]) -> None:
        self.names, self.captions = Texts(names), Texts(captions)
        self.language = _languages(captions, languages)
        self._kept_language = np.where(self.language == _languages(captions, [None] * len(names)), 0, self.language)
        self.length = np.fromiter(map(len, captions), np.int32, len(captions))
        self.uncaptioned: Mask = self.length == 0
        self.state, self.revision = np.zeros(len(names), np.int8), np.zeros(len(names), np.int32)
        self.certainty, self.doubt = np.full((2, len(names)), np.nan, np.float32)
        self.group = np.full(len(names), -1, np.int32)

    def __len__(self) -> int:
        return len(self.names)

    def set_row(self, row: int, caption: str, state: str, revision: int) -> None:
        """Give a row another caption and state."""
        if caption != self.captions[row]:
            self.captions[row] = caption
            self.length[row] = len(caption)
            self.language[row] = self._language(row, caption)
        self.state[row] = STATES.index(state)
        self.revision[row] = revision

    def extend(self, names: Sequence[str]) -> None:
        """Append pictures without captions."""
        further = Columns(names, [""] * len(names), [None] * len(names))
        self.names.extend(names)
        self.captions.extend([""] * len(names))
        for name in ("_kept_language", "language", "length", "uncaptioned", "state", "revision", "certainty", "doubt"):
            setattr(self, name, np.concatenate([getattr(self, name), getattr(further, name)]))
        self.group = np.concatenate([self.group, further.group])

    def _language(self, row: int, caption: str) -> int:
        """The language of a new caption: that of its script, unless the source named another for the caption before."""
        if not caption:
            return 0
        code = LANGUAGE_CODES.index(language_of(caption))
        return int(self._kept_language[row]) or code


def well_formed(text: str) -> str:
    r"""The text with lone surrogates, which no column and no answer can hold, as `\udNNN`."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def _languages(captions: Sequence[str], languages: Sequence[str | None]) -> NDArray[np.int8]:
    codes = {code: number for number, code in enumerate(LANGUAGE_CODES)}
    return np.fromiter(
        (
            codes[named or language_of(caption)] if caption else 0
            for caption, named in zip(captions, languages, strict=True)
        ),
        np.int8,
        len(captions),
    )
