"""How the places of a scene look: their land by day and by night, without any of the things."""

from collections.abc import Callable
from math import pi
from random import Random

import numpy as np
from PIL import Image

from sampledata.scenes.ground import Ground, open_sky, under
from sampledata.scenes.pen import Rgb, mix, polygon, smooth

_TUFT = polygon((-0.3, 0), (-0.62, -0.7), (-0.12, -0.28), (0.02, -1), (0.16, -0.28), (0.66, -0.66), (0.32, 0))
_PEBBLE = smooth((-1, 0), (-0.3, -0.55), (0.6, -0.45), (1, 0.05), (0.3, 0.45), (-0.7, 0.4))
_SPARK = polygon((-1, 0), (0, -0.09), (1, 0), (0, 0.09))


def draw_place(place: str, night: bool, side: int, rng: Random) -> Image.Image:
    """Draws a place without things.

    Args:
        place: name in `PLACES`.
        night: night instead of day.
        side: width and height in pixels.
        rng: picks clouds, hills and tones.

    Returns:
        An RGB picture.
    """
    high, low, paint = _PLACES[place]
    ground = open_sky(side, high, low, night, rng)
    paint(ground)
    return ground.image


def _meadow(ground: Ground) -> None:
    rng = ground.rng
    y = rng.uniform(0.5, 0.55)
    ground.land(y - 0.06, 0.03, rng.uniform(0.7, 1.2), (176, 206, 204), (176, 206, 186))
    ground.land(y - 0.02, 0.025, rng.uniform(0.8, 1.4), (168, 204, 160), (150, 190, 130))
    ground.land(y + 0.03, 0.014, rng.uniform(0.5, 1.0), (194, 218, 146), (160, 196, 114))
    ground.land(y + 0.15, 0.022, rng.uniform(0.4, 0.8), (182, 210, 132), (150, 188, 106))
    ground.land(y + 0.31, 0.024, rng.uniform(0.4, 0.8), (170, 202, 122), (136, 176, 96))
    ground.scatter(24, y + 0.07, _TUFT, 0.034, (126, 166, 90))
    ground.scatter(10, y + 0.07, _TUFT, 0.03, (206, 226, 160))


def _beach(ground: Ground) -> None:
    rng = ground.rng
    y = rng.uniform(0.47, 0.51)
    shore = y + rng.uniform(0.1, 0.14)
    ground.fade(np.array([[-0.01, y], [1.01, y], [1.01, 0.75], [-0.01, 0.75]]), (108, 170, 198), (204, 238, 230))
    for _ in range(9):
        reach, at = rng.uniform(0.03, 0.08), (rng.uniform(0, 1), rng.uniform(y + 0.012, shore - 0.03))
        ground.paint(_SPARK * reach + np.array(at), (186, 220, 228))
    glitter = (236, 230, 206) if ground.night else (250, 248, 232)
    for step in range(7):
        at = (ground.light_x + rng.uniform(-0.02, 0.02), y + 0.008 + step * 0.013)
        ground.fill(_SPARK * (0.02 + 0.006 * step) + np.array(at), mix(glitter, ground.lit((150, 204, 214)), 0.35))
    x = np.linspace(-0.02, 1.02, 40)
    waves, shift = rng.uniform(0.7, 1.3), rng.uniform(0, 2 * pi)
    line = np.stack([x, shore + 0.014 * np.sin(x * waves * 2 * pi + shift)], axis=1)
    wash = np.stack([x, line[:, 1] - 0.026 + 0.006 * np.sin(x * waves * 7 * pi + 2 * shift)], axis=1)
    ground.paint(np.concatenate([wash, wash[::-1] + np.array([0, 0.007])]), (236, 246, 246))
    ground.paint(under(line - np.array([0, 0.012])), (248, 252, 252))
    ground.paint(under(line), (208, 186, 154))
    ground.fade(under(line + np.array([0, 0.022])), (228, 206, 168), (240, 218, 178))
    ground.land(shore + 0.14, 0.016, rng.uniform(0.5, 0.9), (240, 220, 184), (240, 218, 178))
    ground.land(shore + 0.27, 0.018, rng.uniform(0.5, 0.9), (244, 225, 190), (232, 206, 164))
    ground.ripples(6, shore + 0.08, 0.1, (224, 200, 160))
    ground.scatter(16, shore + 0.06, _PEBBLE, 0.009, (206, 182, 146))
    ground.scatter(8, shore + 0.06, _PEBBLE, 0.008, (252, 242, 222))


def _desert(ground: Ground) -> None:
    rng = ground.rng
    y = rng.uniform(0.51, 0.56)
    ground.land(y - 0.05, 0.016, rng.uniform(0.8, 1.2), (230, 206, 178), (224, 192, 154))
    first = rng.choice((rng.uniform(0.12, 0.4), rng.uniform(0.6, 0.88)))
    _dune(ground, first, y, rng.uniform(0.09, 0.14), (232, 198, 154), (222, 184, 136))
    _dune(
        ground, 1 - first + rng.uniform(-0.1, 0.1), y + 0.05, rng.uniform(0.06, 0.1), (236, 204, 158), (226, 188, 140)
    )
    ground.land(y + 0.09, 0.016, rng.uniform(0.4, 0.8), (238, 208, 162), (228, 192, 142))
    ground.land(y + 0.24, 0.024, rng.uniform(0.4, 0.7), (234, 202, 154), (218, 178, 128))
    ground.ripples(11, y + 0.13, 0.13, (212, 172, 124))


def _dune(ground: Ground, peak: float, base: float, height: float, light: Rgb, bottom: Rgb) -> None:
    """A dune with a lit and a shaded side that meet in a winding ridge."""
    x = np.linspace(-0.02, 1.02, 60)
    slope = np.where(x < peak, 0.3, 0.24)
    crest = np.stack([x, base - height / (1 + (np.abs(x - peak) / slope) ** 1.7 * 1.6)], axis=1)
    crest[:, 1] += 0.05 * np.abs(x - peak)
    ground.fade(under(crest), light, bottom)
    lee = crest[x >= peak]
    t = np.linspace(1, 0, 16)
    ridge = np.stack([lee[0, 0] + 0.07 * np.sin(t * 1.5 * pi) * t, lee[0, 1] + (0.2 + height) * t], axis=1)
    ground.fade(np.concatenate([lee, [[1.02, base + 0.2]], ridge]), mix(light, (176, 118, 88), 0.36), bottom)


def _snow(ground: Ground) -> None:
    rng = ground.rng
    y = rng.uniform(0.5, 0.55)
    ground.land(y - 0.06, 0.035, rng.uniform(0.6, 1.1), (206, 217, 234), (204, 216, 232))
    ground.land(y - 0.01, 0.028, rng.uniform(0.8, 1.3), (222, 231, 243), (208, 220, 236))
    ground.land(y + 0.04, 0.014, rng.uniform(0.5, 1.0), (240, 245, 250), (220, 229, 241))
    ground.land(y + 0.16, 0.024, rng.uniform(0.4, 0.8), (244, 248, 252), (224, 232, 243))
    ground.land(y + 0.31, 0.026, rng.uniform(0.4, 0.8), (246, 249, 253), (222, 231, 243))
    ground.ripples(7, y + 0.1, 0.14, (212, 222, 237))
    flake = (204, 214, 238) if ground.night else (255, 255, 255)
    for _ in range(rng.choice((0, 30, 60))):
        ground.disc(rng.uniform(0, 1), rng.uniform(0, 1), rng.choice((0.003, 0.0045, 0.006)), flake)


def _mountains(ground: Ground) -> None:
    rng = ground.rng
    y = rng.uniform(0.51, 0.56)
    for tone, height, count in (((178, 190, 212), 0.3, 4), ((140, 152, 182), 0.25, 3)):
        spots = [(i + rng.uniform(0.15, 0.85)) / count for i in range(count)]
        for x in sorted(spots, key=lambda _: rng.random()):
            rise = height * rng.uniform(0.7, 1.15)
            _peak(ground, x, y + 0.03, rise * rng.uniform(0.85, 1.1), rise, tone)
    ground.land(y - 0.01, 0.022, rng.uniform(0.8, 1.4), (160, 178, 172), (140, 160, 144))
    ground.land(y + 0.04, 0.014, rng.uniform(0.5, 1.0), (184, 190, 164), (164, 172, 142))
    ground.land(y + 0.15, 0.022, rng.uniform(0.4, 0.8), (178, 184, 156), (156, 164, 132))
    ground.land(y + 0.31, 0.024, rng.uniform(0.4, 0.8), (170, 177, 148), (144, 152, 122))
    ground.scatter(14, y + 0.07, _TUFT, 0.028, (136, 148, 114))
    ground.scatter(16, y + 0.07, _PEBBLE, 0.014, (158, 158, 156))
    ground.scatter(8, y + 0.07, _PEBBLE, 0.01, (206, 206, 200))


def _peak(ground: Ground, x: float, base: float, width: float, height: float, tone: Rgb) -> None:
    """A peak with a lit left side, a shaded right side and a cap of snow."""
    top, lean = base - height, ground.rng.uniform(-0.15, 0.15)

    def at(across: float, down: float) -> tuple[float, float]:
        return x + across * width, top + down * height

    haze = mix(tone, (216, 222, 232), 0.5)
    ground.fade(np.array([at(-1, 1), at(0, 0), at(1, 1)]), tone, haze)
    shade = np.array([at(0, 0), at(1, 1), at(lean, 1), at(0.1, 0.66), at(0.02, 0.4)])
    ground.fade(shade, mix(tone, (60, 66, 104), 0.26), mix(haze, (60, 66, 104), 0.12))
    snow = [
        at(0.34, 0.34),
        at(0.22, 0.28),
        at(0.12, 0.42),
        at(0.03, 0.31),
        at(-0.1, 0.44),
        at(-0.2, 0.3),
        at(-0.34, 0.34),
    ]
    ground.paint(np.array([at(0, 0), *snow]), (246, 249, 253))
    ground.paint(np.array([at(0, 0), *snow[:4]]), (212, 220, 235))


def _city(ground: Ground) -> None:
    rng = ground.rng
    y = rng.uniform(0.53, 0.57)
    for tone, low, high, width in (((196, 203, 215), 0.18, 0.38, 0.11), ((152, 160, 178), 0.09, 0.27, 0.13)):
        x = rng.uniform(-0.08, 0.0)
        while x < 1.0:
            wide = width * rng.uniform(0.75, 1.3)
            _tower(ground, x, y, wide, rng.uniform(low, high), mix(tone, (124, 130, 152), rng.uniform(0, 0.35)))
            x += wide
    ground.fade(np.array([[-0.01, y], [1.01, y], [1.01, 1.01], [-0.01, 1.01]]), (192, 190, 192), (218, 214, 208))
    ground.rectangle(0, y - 0.012, 1, y + 0.01, ground.lit((178, 178, 184)))
    ground.rectangle(0, y + 0.01, 1, y + 0.022, ground.lit((148, 148, 156)))
    joint, shift = (188, 185, 183), rng.uniform(-0.1, 0.1)
    for row in range(6):
        line = y + 0.05 + 0.42 * (row / 6) ** 1.5
        ground.rectangle(0, line, 1, line + 0.002 + 0.003 * row / 6, ground.lit(joint))
    for ray in range(-6, 7):
        near, far = 0.5 + shift + ray * 0.28, 0.5 + shift + ray * 0.13
        ground.paint(np.array([[far, y + 0.022], [far + 0.002, y + 0.022], [near + 0.007, 1.0], [near, 1.0]]), joint)


def _tower(ground: Ground, x: float, base: float, width: float, height: float, wall: Rgb) -> None:
    """A grey tower with rows of windows, some of them lit at night."""
    rng = ground.rng
    top, side = base - height, x + width * 0.74
    roof = rng.choice(("flat", "flat", "mast", "step"))
    if roof == "mast":
        ground.rectangle(x + width * 0.4, top - 0.05, x + width * 0.4 + 0.006, top, ground.lit(wall))
    if roof == "step":
        ground.rectangle(x + width * 0.2, top - 0.022, side, top, ground.lit(wall))
    ground.rectangle(x, top, x + width, base, ground.lit(wall))
    ground.rectangle(side, top, x + width, base, ground.lit(mix(wall, (78, 82, 110), 0.22)))
    dull, lamp = ground.lit(mix(wall, (236, 242, 248), 0.5)), mix((252, 228, 164), wall, 0.12)
    columns, rows = max(1, int((side - x - 0.012) / 0.024)), int((height - 0.02) / 0.028)
    start = x + (side - x - columns * 0.024 + 0.012) / 2
    for row in range(rows):
        for column in range(columns):
            chance = rng.random()
            if chance < 0.75:
                left, upper = start + column * 0.024, top + 0.016 + row * 0.028
                glass = lamp if ground.night and chance < 0.36 else dull
                ground.rectangle(left, upper, left + 0.012, upper + 0.016, glass)


_PLACES: dict[str, tuple[Rgb, Rgb, Callable[[Ground], None]]] = {
    "meadow": ((138, 194, 232), (228, 242, 244), _meadow),
    "beach": ((132, 196, 230), (234, 244, 240), _beach),
    "desert": ((164, 204, 222), (250, 234, 208), _desert),
    "snow": ((170, 196, 224), (234, 240, 247), _snow),
    "mountains": ((144, 186, 226), (236, 238, 238), _mountains),
    "city": ((160, 194, 222), (240, 233, 228), _city),
}
"""For each place, the sky by day at the top and at the horizon, and what paints its land."""
