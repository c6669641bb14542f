"""The canvas that a place is painted on, and its sky by day and by night."""

from functools import cache
from math import pi
from random import Random

import numpy as np
from PIL import Image

from sampledata.scenes.pen import Pen, Rgb, Shape, mix

NIGHT_BLUE: Rgb = (34, 46, 104)


class Ground(Pen):
    """A square picture to paint a place on, with the scene's light and its source of chance.

    Args:
        image: the RGB picture.
        night: night instead of day.
        rng: picks what no caption mentions.
    """

    def __init__(self, image: Image.Image, night: bool, rng: Random) -> None:
        super().__init__(image, image.width)
        self.night = night
        self.rng = rng
        self.light_x = 0.5
        """Where the sun or the moon stands, left to right."""

    def lit(self, colour: Rgb) -> Rgb:
        """A daylight colour in the light of the scene."""
        if not self.night:
            return colour
        dim = (round(colour[0] * 0.57), round(colour[1] * 0.6), round(colour[2] * 0.76))
        return mix(dim, NIGHT_BLUE, 0.22)

    def paint(self, shape: Shape, colour: Rgb) -> None:
        """Covers a shape with a daylight colour as it looks in the scene's light."""
        self.fill(shape, self.lit(colour))

    def fade(self, shape: Shape, top: Rgb, bottom: Rgb) -> None:
        """Covers a shape with a gradient of daylight colours from its top to its bottom."""
        self.gradient(shape, self.lit(top), self.lit(bottom))

    def land(self, y: float, height: float, waves: float, top: Rgb, bottom: Rgb) -> None:
        """Rolling land below a line about `y` that rises and falls by `height` in about `waves` waves."""
        x = np.linspace(-0.02, 1.02, 36)
        line = y - height * np.sin(x * waves * 2 * pi + self.rng.uniform(0, 2 * pi))
        line -= 0.4 * height * np.sin(x * waves * 2.3 * 2 * pi + self.rng.uniform(0, 2 * pi))
        self.fade(under(np.stack([x, line], axis=1)), top, bottom)

    def ripples(self, count: int, top: float, width: float, colour: Rgb) -> None:
        """Thin lens-shaped waves of the ground, wider towards the viewer."""
        for _ in range(count):
            y = self.rng.uniform(top, 0.98)
            reach = width * self.rng.uniform(0.5, 1.0) * (0.5 + (y - top) / (1 - top))
            self.paint(_LENS * np.array([reach, reach * 0.12]) + np.array([self.rng.uniform(0, 1), y]), colour)

    def scatter(self, count: int, top: float, shape: Shape, size: float, colour: Rgb) -> None:
        """Repeats a small shape over the ground, larger towards the viewer."""
        tone = self.lit(colour)
        for _ in range(count):
            y = self.rng.uniform(top, 0.99)
            scale = size * (0.45 + 0.55 * (y - top) / (1 - top))
            self.fill(shape * scale + np.array([self.rng.uniform(0, 1), y]), tone)


def under(line: Shape) -> Shape:
    """Everything below a line that runs from left to right."""
    return np.concatenate([line, [[1.02, 1.02], [-0.02, 1.02]]])


_bend = np.linspace(-1, 1, 12)
_LENS = np.concatenate(
    [np.stack([_bend, -np.cos(_bend * pi / 2)], axis=1), np.stack([_bend, -0.4 * np.cos(_bend * pi / 2)], axis=1)[::-1]]
)


def open_sky(side: int, high: Rgb, low: Rgb, night: bool, rng: Random) -> Ground:
    """Starts a picture with its sky: sun and clouds, or moon and stars.

    Args:
        side: width and height in pixels.
        high: colour of the day's sky at the top.
        low: colour of the day's sky at the horizon.
        night: night instead of day.
        rng: picks the tones, and what stands where.

    Returns:
        The canvas to paint the land on.
    """
    mood = rng.random()
    if night:
        high, low = mix((14, 24, 62), (24, 26, 68), mood), mix((72, 96, 160), (96, 98, 158), mood)
    else:
        high = mix(high, (158, 170, 222), 0.35 * mood)
        low = mix(low, (252, 226, 208), 0.8 * max(0.0, mood - 0.4))
    column = np.concatenate([np.linspace(high, low, round(side * 0.56)), np.tile(low, (side - round(side * 0.56), 1))])
    image = Image.fromarray(np.round(column).astype(np.uint8)[:, None, :]).resize(
        (side, side), Image.Resampling.NEAREST
    )
    ground = Ground(image, night, rng)
    ground.light_x = rng.choice((rng.uniform(0.07, 0.24), rng.uniform(0.76, 0.93)))
    if night:
        _stars_and_moon(ground, ground.light_x, rng.uniform(0.08, 0.17))
    else:
        _sun_and_clouds(ground, ground.light_x, rng.uniform(0.07, 0.17))
    return ground


def _sun_and_clouds(ground: Ground, x: float, y: float) -> None:
    rng = ground.rng
    _halo(ground, x, y, 0.34, (255, 251, 230))
    ground.disc(x, y, 0.066, (255, 251, 232))
    ground.disc(x, y, 0.054, (255, 248, 218))
    for height in sorted(rng.uniform(0.07, 0.42) for _ in range(rng.randint(2, 5))):
        _cloud(ground, rng.uniform(0.0, 1.0), height, 0.17 - 0.2 * height + rng.uniform(-0.03, 0.03))


def _cloud(ground: Ground, x: float, y: float, width: float) -> None:
    """A heap of round puffs on a flat foot; small and flat near the horizon."""
    rng = ground.rng
    puffs = [
        (-0.64, 0.24),
        (-0.3, rng.uniform(0.36, 0.5)),
        (rng.uniform(0.02, 0.2), rng.uniform(0.46, 0.6)),
        (0.58, 0.32),
    ]
    at = np.linspace(-1, 1, 48)
    heaps = [np.sqrt(np.maximum(0.0, radius**2 - (at - centre) ** 2 * 0.9)) for centre, radius in puffs]
    top = np.maximum(np.max(heaps, axis=0), 0.09 * np.sqrt(np.maximum(0.0, 1 - at**2)))
    haze = min(1.0, y / 0.5)
    shade, light = mix((216, 227, 238), (236, 238, 242), haze), mix((255, 255, 255), (250, 249, 249), haze)
    foot = np.stack([at[::-1], 0.07 * np.sqrt(np.maximum(0.0, 1 - at[::-1] ** 2))], axis=1)
    body = np.concatenate([np.stack([at, -top], axis=1), foot])
    place = np.array([x, y])
    ground.fill(body * width + place, shade)
    lifted = np.concatenate(
        [np.stack([at * 0.94 - 0.03, -top * 0.97], axis=1), foot * np.array([0.86, 0.0]) - [0.04, 0.08]]
    )
    ground.fill(np.minimum(lifted, np.array([2.0, -0.06])) * width + place, light)


def _stars_and_moon(ground: Ground, x: float, y: float) -> None:
    rng = ground.rng
    for _ in range(rng.randint(26, 46)):
        size = rng.choice((0.003, 0.004, 0.0055))
        tone = mix((140, 152, 204), (252, 248, 232), rng.uniform(0.2, 1.0))
        ground.fill(_STAR * size + np.array([rng.uniform(0, 1), rng.uniform(0, 0.54)]), tone)
    _halo(ground, x, y, 0.28, (186, 198, 238))
    ground.fill(_CRESCENT * 0.066 + np.array([x, y]), (252, 245, 222))


_STAR = np.array([[0, -1.5], [0.35, -0.35], [1.2, 0], [0.35, 0.35], [0, 1.5], [-0.35, 0.35], [-1.2, 0], [-0.35, -0.35]])
_rim, _bite = np.radians(np.linspace(50, 310, 40)), np.radians(np.linspace(297, 63, 40))
_CRESCENT = np.concatenate(
    [
        np.stack([np.cos(_rim), np.sin(_rim)], axis=1),
        np.stack([0.283 + 0.793 * np.cos(_bite), 0.86 * np.sin(_bite)], axis=1),
    ]
)


@cache
def _glow() -> Image.Image:
    return (
        Image.radial_gradient("L").point(lambda value: round(150 * max(0.0, 1 - value / 180) ** 1.7)).resize((96, 96))
    )


def _halo(ground: Ground, x: float, y: float, radius: float, colour: Rgb) -> None:
    size = round(2 * radius * ground.scale)
    corner = (round((x - radius) * ground.scale), round((y - radius) * ground.scale))
    ground.image.paste(colour, corner, _glow().resize((size, size), Image.Resampling.BILINEAR))
