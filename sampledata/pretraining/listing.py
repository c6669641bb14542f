"""The input of the language model in pretraining: for every cell of a grid, the words for what is there.

The vector of a cell is a weighted sum of the embeddings of words: where a thing has its centre, `a`, its colour and its
kind, and `left` if it stands in the left half; on the rest of the picture, the place and `day` or `night`. Because
words add up, a colour and a thing that were never seen together still have a vector of the usual form.

What a projector makes of a picture is never so clean, so the weights are blurred in the ways in which an encoder is
unsure: a centre between two cells belongs to both, the cells that a thing covers speak of it too, a kind or a colour
is mixed with another.
"""

from collections.abc import Sequence

import numpy as np

from imagecap.eval.scenes.world import COLOURS, KINDS, PLACES, Scene
from sampledata.pretraining.scenes import GRID

WORDS = (
    *("a", "day", "night", "left"),
    *(place.name for place in PLACES),
    *(colour.name for colour in COLOURS),
    *(kind.name for kind in KINDS),
)
"""The words of the listing, in the order of the weights."""

_LEFT, _PLACE0 = 3, 4
_COLOUR0 = _PLACE0 + len(PLACES)
_KIND0 = _COLOUR0 + len(COLOURS)
COLUMN_LEFTNESS = 1 / (1 + np.exp(2.5 * (np.arange(GRID, dtype=np.float32) - GRID // 2)))
_PLACE = {place.name: _PLACE0 + number for number, place in enumerate(PLACES)}
_COLOUR = {colour.name: _COLOUR0 + number for number, colour in enumerate(COLOURS)}
_KIND = {kind.name: _KIND0 + number for number, kind in enumerate(KINDS)}


def clean_weights(scenes: Sequence[Scene]) -> np.ndarray:
    """Weights `[scenes, cells, words]` with every centre in its one cell."""
    return _weights(scenes, None)


def blurred_weights(scenes: Sequence[Scene], rng: np.random.Generator) -> np.ndarray:
    """Weights `[scenes, cells, words]` as an unsure encoder might give them, with the strength drawn per scene."""
    return _weights(scenes, rng)


def _weights(scenes: Sequence[Scene], rng: np.random.Generator | None) -> np.ndarray:
    result = np.zeros((len(scenes), GRID * GRID, len(WORDS)), np.float32)
    for number, scene in enumerate(scenes):
        blur = 1e-4 if rng is None or rng.random() < 0.2 else float(rng.uniform(0.01, 0.15))
        spread = 0.0 if rng is None or rng.random() < 0.4 else float(rng.uniform(0, 0.7))
        mixing = 0.0 if rng is None or rng.random() < 0.5 else float(rng.uniform(0, 0.45))
        taken = np.zeros((GRID, GRID), np.float32)
        out = result[number].reshape(GRID, GRID, len(WORDS))
        for thing in scene.things:
            x, y = (thing.x, thing.y) if rng is None else (thing.x + rng.normal(0, 0.01), thing.y + rng.normal(0, 0.01))
            centre = np.outer(_share(y, blur), _share(x, blur))
            cover = np.outer(_cover(thing.y, thing.size), _cover(thing.x, thing.size)) * spread
            named = np.maximum(centre, cover)
            taken = np.maximum(taken, named)
            out[:, :, 0] += centre
            kind, colour = _KIND[thing.kind], _COLOUR[thing.colour]
            if rng is None:
                out[:, :, kind] += named
                out[:, :, colour] += named
            else:
                doubt = mixing * rng.random((2, GRID, GRID))
                other_kind = _KIND0 + int(rng.integers(len(KINDS)))
                other_colour = _COLOUR0 + int(rng.integers(len(COLOURS)))
                out[:, :, kind] += named * (1 - doubt[0])
                out[:, :, other_kind] += named * doubt[0]
                out[:, :, colour] += named * (1 - doubt[1])
                out[:, :, other_colour] += named * doubt[1]
        side = taken * (1.0 if rng is None else float(rng.uniform(0.5, 1.5)))
        if rng is not None and rng.random() < 0.5:
            side = np.maximum(side, float(rng.uniform(0, 1)))
        out[:, :, _LEFT] += side * COLUMN_LEFTNESS
        out[:, :, _PLACE[scene.place]] += 1 - taken
        out[:, :, 2 if scene.night else 1] += 1 - taken
    if rng is not None:
        result *= rng.uniform(0.75, 1.25, result.shape).astype(np.float32)
    return result


def _share(position: float, blur: float) -> np.ndarray:
    """How much of a centre each of GRID cells has; sums to about 1."""
    edges = (position * GRID - np.arange(GRID + 1)) / blur
    return -np.diff(1 / (1 + np.exp(-np.clip(edges, -50, 50))))


def _cover(position: float, size: float) -> np.ndarray:
    """Which part of each of GRID cells the inner four fifths of a thing cover."""
    low, high = (position - 0.4 * size) * GRID, (position + 0.4 * size) * GRID
    cells = np.arange(GRID)
    return np.clip(np.minimum(high, cells + 1) - np.maximum(low, cells), 0, 1)
