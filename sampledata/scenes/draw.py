"""Draws a sample scene: a place by day or night, and its things from the furthest to the nearest.

Everything is drawn two or three times as large as wanted and then averaged down, which smooths all edges at once.
"""

from collections.abc import Callable
from functools import lru_cache
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from imagecap.eval.scenes.world import KINDS, Scene, Thing
from sampledata.scenes import draw_animals, draw_goods, draw_plants, draw_vehicles
from sampledata.scenes.draw_places import draw_place
from sampledata.scenes.pen import Pen, stripes
from sampledata.scenes.tones import Tones, tones_of

PAINTERS: dict[str, Callable[[Pen, Tones], None]] = {
    "car": draw_vehicles.car,
    "bus": draw_vehicles.bus,
    "bicycle": draw_vehicles.bicycle,
    "house": draw_goods.house,
    "tent": draw_goods.tent,
    "tree": draw_plants.tree,
    "flower": draw_plants.flower,
    "mushroom": draw_plants.mushroom,
    "cat": draw_animals.cat,
    "dog": draw_animals.dog,
    "rabbit": draw_animals.rabbit,
    "snail": draw_animals.snail,
    "umbrella": draw_goods.umbrella,
    "chair": draw_goods.chair,
    "cup": draw_goods.cup,
    "ball": draw_goods.ball,
    "boat": draw_vehicles.boat,
    "gift": draw_goods.gift,
    "balloon": draw_vehicles.balloon,
    "bird": draw_animals.bird,
    "butterfly": draw_animals.butterfly,
    "kite": draw_goods.kite,
    "plane": draw_vehicles.plane,
    "fish": draw_animals.fish,
}
"""What draws each kind in the unit box."""

_ON_GROUND = frozenset(kind.name for kind in KINDS if kind.home == "ground")


def draw_scene(scene: Scene, side: int) -> Image.Image:
    """Draws a scene. The same scene and side give the same pixels.

    Args:
        scene: what to draw.
        side: width and height of the picture in pixels.

    Returns:
        An RGB picture of `side` by `side` pixels.
    """
    factor = 3 if side <= 160 else 2
    canvas = draw_place(scene.place, scene.night, side * factor, Random(scene.seed))
    for thing in sorted(scene.things, key=lambda thing: thing.y + thing.size / 2):
        _put(canvas, thing, scene.night)
    return canvas.reduce(factor)


def draw_thing(kind: str, colour: str, side: int, night: bool = False) -> Image.Image:
    """Draws one thing on a see-through square.

    Args:
        kind: name in `KINDS`.
        colour: name in `COLOURS`.
        side: width and height of the square in pixels.
        night: in the dimmer light of night.

    Returns:
        An RGBA picture of `side` by `side` pixels without partly see-through pixels.
    """
    tones = tones_of(colour)
    line = max(1, round(side * 0.016))
    image = Image.new("RGBA", (side, side), (*tones.outline, 0))
    pen = Pen(image, side - 2 * line, line, tones.outline)
    PAINTERS[kind](pen, tones)
    # The ground of the layer has the outline's colour, so widening what is opaque draws the outline.
    opaque = _widen(np.asarray(image.getchannel("A")), line)
    image = ImageChops.multiply(image, _light(night, side))
    image.putalpha(Image.fromarray(opaque))
    return image


def _widen(mask: NDArray[np.uint8], by: int) -> NDArray[np.uint8]:
    """Grows the bright part of `mask` `[height, width]` by so many pixels on every side."""
    for step in range(by):
        wide = mask.copy()
        np.maximum(wide[1:], mask[:-1], out=wide[1:])
        np.maximum(wide[:-1], mask[1:], out=wide[:-1])
        source = wide.copy() if step % 2 else mask  # a diamond one step, a square the next: nearly a disc
        np.maximum(wide[:, 1:], source[:, :-1], out=wide[:, 1:])
        np.maximum(wide[:, :-1], source[:, 1:], out=wide[:, :-1])
        mask = wide
    return mask


@lru_cache(maxsize=64)
def _light(night: bool, side: int) -> Image.Image:
    """What a thing's colours are multiplied with: full light at the top, a little less at the bottom."""
    lamp = np.array([235.0, 236.0, 250.0, 255.0] if night else [255.0] * 4)
    return stripes(np.round(np.linspace(lamp, lamp * 0.92, side)).astype(np.uint8), side)


@lru_cache(maxsize=1)
def _soft_disc() -> Image.Image:
    """A disc that fades out towards its edge, `L`."""
    return (
        Image.radial_gradient("L").point(lambda value: round(150 * max(0.0, 1 - value / 180) ** 0.8)).resize((64, 64))
    )


def _put(canvas: Image.Image, thing: Thing, night: bool) -> None:
    full = canvas.width
    side = max(8, round(thing.size * full))
    left, top = round(thing.x * full - side / 2), round(thing.y * full - side / 2)
    if thing.kind in _ON_GROUND:
        width, height = round(side * 1.15), round(side * 0.24)
        corner = (left + (side - width) // 2, top + side - round(height * 0.62))
        shadow = _soft_disc().resize((width, height), Image.Resampling.BILINEAR)
        canvas.paste((14, 20, 44) if night else (52, 48, 70), corner, shadow)
    image = draw_thing(thing.kind, thing.colour, side, night)
    if thing.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    canvas.paste(image, (left, top), image)
