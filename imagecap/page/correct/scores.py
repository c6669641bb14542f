"""How sure a model is of each picture, and where its caption says something else than the one that is there."""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagecap.data.table_files import read_table
from imagecap.errors import ImageCapError
from imagecap.languages import LANGUAGES
from imagecap.metrics.tokenizers import tokenize
from imagecap.page.correct.columns import LANGUAGE_CODES, Columns
from imagecap.printable import printable

_AT_ONCE = 4096

Floats = NDArray[np.float32]


def read_scores(file: Path, columns: Columns) -> int:
    """Read what `run.py caption` wrote, and set `certainty` and `doubt` of the rows whose pictures it has.

    The doubt about a caption is the share of its words that the model's caption does not have, and the other way round
    (1 - F1), times the probability that the model gives to a token of its own: it is high where the model is sure of
    something else.

    Args:
        file: a `.jsonl` or `.parquet` with `image`, `caption` and `score`. Names may begin with `images/`.
        columns: of the queue.

    Returns:
        The number of rows that have a certainty.

    Raises:
        ImageCapError: the file cannot be read, or has no scores.
    """
    made = {name: (caption, score) for name, caption, score in _rows(file)}
    if not made:
        raise ImageCapError(
            f"{file} has no scores; it must be what `python run.py caption --output_file FILE.jsonl` writes"
        )
    found: list[tuple[int, str, float]] = []
    for row, name in enumerate(columns.names):
        caption, score = made.get(name) or made.get(f"images/{name}") or (None, math.nan)
        if caption is not None:
            found.append((row, caption, score))
    columns.certainty[:], columns.doubt[:] = np.nan, np.nan
    for start in range(0, len(found), _AT_ONCE):
        _set(columns, found[start : start + _AT_ONCE])
    return len(found)


def disagreement(captions: list[str], others: list[str], language: str) -> Floats:
    """1 - F1 of the words of each caption and another one of the same picture. `[captions]`"""
    result = np.empty(len(captions), np.float32)
    words, other_words = (tokenize(texts, language) for texts in (captions, others))
    for place, (one, other) in enumerate(zip(words, other_words, strict=True)):
        common = sum((Counter(one) & Counter(other)).values())
        result[place] = 1 - 2 * common / max(1, len(one) + len(other))
    return result


def _set(columns: Columns, found: list[tuple[int, str, float]]) -> None:
    for row, _, score in found:
        columns.certainty[row] = math.exp(min(0.0, score))
    for code in LANGUAGES:
        number = LANGUAGE_CODES.index(code)
        part = [each for each in found if columns.language[each[0]] == number]
        captions = [columns.captions[row] for row, _, _ in part]
        differing = disagreement(captions, [caption for _, caption, _ in part], code)
        for (row, _, score), each in zip(part, differing, strict=True):
            columns.doubt[row] = each * math.exp(min(0.0, score))


def _rows(file: Path) -> Iterator[tuple[str, str, float]]:
    if file.suffix.lower() not in (".jsonl", ".parquet"):
        raise ImageCapError(f"{file} has no scores; give the .jsonl or .parquet that `python run.py caption` writes")
    if not file.is_file():
        raise ImageCapError(f"{file} does not exist")
    for row in read_table(file):
        value: Any = row if isinstance(row, dict) else {}
        name, caption, score = value.get("image"), value.get("caption"), value.get("score")
        named = isinstance(name, str) and isinstance(caption, str)
        if named and isinstance(score, int | float) and math.isfinite(score):
            yield printable(name), caption, float(score)
