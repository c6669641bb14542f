"""Targets of the patch heads: what is in each cell of a picture's scene."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from imagecap.eval.scenes.world import COLOURS, KINDS, PLACES, Scene
from sampledata.pretraining.listing import COLUMN_LEFTNESS, WORDS
from sampledata.pretraining.scenes import GRID

CELLS = GRID * GRID
BLUR = 0.06
"""Width of the transition of a centre from one cell to the next, in cells. No encoder could learn a sharp border."""
_KIND = {kind.name: number for number, kind in enumerate(KINDS)}
_COLOUR = {colour.name: number for number, colour in enumerate(COLOURS)}
_PLACE = {place.name: number for number, place in enumerate(PLACES)}
LEFTNESS = torch.from_numpy(np.tile(COLUMN_LEFTNESS, GRID)).float()
HEADS = {
    "centre": 1,
    "kind": len(KINDS),
    "colour": len(COLOURS),
    "offset": 2,
    "cover kind": len(KINDS) + 1,
    "cover colour": len(COLOURS) + 1,
    "place": len(PLACES),
    "night": 1,
}
"""Outputs of each head. The class after the last kind or colour means that nothing covers the patch."""


class Truth:
    """Targets of the heads for a series of scenes, as arrays.

    Args:
        scenes: of the pictures, in order.
    """

    def __init__(self, scenes: Sequence[Scene]) -> None:
        most = 6
        self.things = np.zeros((len(scenes), most, 5), np.float32)
        self.things[:, :, 0] = -9
        for number, of in enumerate(scenes):
            for place, thing in enumerate(sorted(of.things, key=lambda t: t.y + t.size / 2)):
                self.things[number, place] = (
                    thing.x,
                    thing.y,
                    thing.size,
                    _KIND[thing.kind],
                    _COLOUR[thing.colour],
                )
        self.place = torch.tensor([_PLACE[of.place] for of in scenes])
        self.night = torch.tensor([float(of.night) for of in scenes])

    def of(self, numbers: np.ndarray, view: np.ndarray | None = None) -> dict[str, Tensor]:
        """Targets for some pictures, seen through `view` `[images, 4]`: left, top, width (negative: mirrored), height.

        -1 stands for "nothing to say here".
        """
        things = self.things[numbers].copy()
        if view is not None:
            mirrored = view[:, 2] < 0
            width = np.abs(view[:, 2])
            x = (things[:, :, 0] - view[:, :1]) / width[:, None]
            things[:, :, 0] = np.where(mirrored[:, None], 1 - x, x)
            things[:, :, 1] = (things[:, :, 1] - view[:, 1:2]) / view[:, 3:]
            things[:, :, 2] /= width[:, None]
            things[self.things[numbers][:, :, 0] < 0, 0] = -9
        images = len(numbers)
        result = {
            "centre": np.zeros((images, CELLS), np.float32),
            "kind": np.full((images, CELLS), -1),
            "colour": np.full((images, CELLS), -1),
            "offset": np.zeros((images, CELLS, 2), np.float32),
            "share": np.zeros((images, CELLS, 1 + len(COLOURS) + len(KINDS)), np.float32),
            "cover kind": np.full((images, CELLS), len(KINDS)),
            "cover colour": np.full((images, CELLS), len(COLOURS)),
        }
        low, high = np.arange(GRID) / GRID, (np.arange(GRID) + 1) / GRID
        rows = np.arange(images)
        for place in range(things.shape[1]):
            x, y, size, kind, colour = (things[:, place, column] for column in range(5))
            half = 0.42 * size
            wide = np.clip(np.minimum((x + half)[:, None], high) - np.maximum((x - half)[:, None], low), 0, 1)
            tall = np.clip(np.minimum((y + half)[:, None], high) - np.maximum((y - half)[:, None], low), 0, 1)
            area = ((tall * GRID)[:, :, None] * (wide * GRID)[:, None, :]).reshape(images, CELLS)
            for name, value in (("cover kind", kind), ("cover colour", colour)):
                result[name] = np.where(area > 0.4, value[:, None].astype(int), result[name])
                unsure = (area > 0.05) & (area <= 0.4) & (result[name] == HEADS[name] - 1)
                result[name] = np.where(unsure, -1, result[name])
            edges = np.arange(GRID + 1)
            across = -np.diff(1 / (1 + np.exp(-np.clip((x[:, None] * GRID - edges) / BLUR, -50, 50))), axis=1)
            down = -np.diff(1 / (1 + np.exp(-np.clip((y[:, None] * GRID - edges) / BLUR, -50, 50))), axis=1)
            named = np.zeros((images, 1 + len(COLOURS) + len(KINDS)), np.float32)
            named[:, 0] = 1
            named[rows, 1 + colour.astype(int)] = 1
            named[rows, 1 + len(COLOURS) + kind.astype(int)] = 1
            share = (down[:, :, None] * across[:, None, :]).reshape(images, CELLS)
            result["share"] += share[:, :, None] * named[:, None]
            inside = (x >= 0) & (x < 1) & (y >= 0) & (y < 1)
            here = rows[inside]
            column, row = (x * GRID)[inside], (y * GRID)[inside]
            cell = row.astype(int) * GRID + column.astype(int)
            result["centre"][here, cell] = 1
            result["kind"][here, cell] = kind[inside]
            result["colour"][here, cell] = colour[inside]
            result["offset"][here, cell] = np.stack([column % 1 - 0.5, row % 1 - 0.5], 1)
        tensors = {name: torch.from_numpy(value) for name, value in result.items()}
        tensors["place"] = self.place[numbers]
        tensors["night"] = self.night[numbers]
        return tensors


def listing_of(truth: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Weights of the listing's words `[images, patches, words]`, and how much each word counts.

    A word of which `truth` is silent counts 0.
    """
    centre, colour, kind = truth["share"].split([1, len(COLOURS), len(KINDS)], -1)
    images = len(centre)
    counts = torch.ones(images, 1, len(WORDS))
    coloured = (truth["place"] >= 0).float()[:, None, None]
    groups = {
        "a": centre,
        "time": torch.stack([1 - truth["night"], truth["night"]], -1)[:, None] * (1 - centre),
        "left": LEFTNESS[None, :, None].expand(images, -1, -1),
        "place": nn.functional.one_hot(truth["place"].clamp(min=0), len(PLACES))[:, None] * (1 - centre),
        "colour": colour,
        "kind": kind,
    }
    at = 0
    for name, part in groups.items():
        width = part.shape[-1]
        if name in ("time", "place", "colour"):
            counts[:, :, at : at + width] = coloured
        at += width
    return torch.cat(list(groups.values()), -1), counts


def without_colours(truth: dict[str, Tensor], chosen: np.ndarray) -> dict[str, Tensor]:
    """The targets without colours, place and time for the chosen pictures."""
    rows = torch.from_numpy(chosen)
    result = dict(truth)
    for name in ("colour", "cover colour"):
        result[name] = torch.where(rows[:, None], -1, truth[name])
    result["place"] = torch.where(rows, -1, truth["place"])
    result["night"] = torch.where(rows, -1.0, truth["night"])
    return result
