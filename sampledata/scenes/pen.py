"""Shapes as point arrays in unit coordinates, and the pen that draws them on a supersampled picture.

Coordinates run from 0 to 1 over the box that is drawn in, x to the right and y downwards. Every shape is an array
`[points, 2]` that is computed once per process for the same arguments, since pictures repeat the same few shapes. Call
these functions with constants only: a shape with chance in it is a plain array.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Rgb = tuple[int, int, int]
Point = tuple[float, float]
Shape = NDArray[np.float64]


def mix(first: Rgb, second: Rgb, share: float) -> Rgb:
    """The colour `share` of the way from `first` to `second`."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _fixed(points: NDArray[np.float64]) -> Shape:
    points.setflags(write=False)  # cached arrays are shared
    return points


@cache
def polygon(*points: Point) -> Shape:
    """A shape with straight edges."""
    return _fixed(np.array(points, dtype=np.float64))


@cache
def box(left: float, top: float, right: float, bottom: float, radius: float = 0.0) -> Shape:
    """A rectangle, with rounded corners where `radius` is above 0."""
    if radius <= 0:
        return polygon((left, top), (right, top), (right, bottom), (left, bottom))
    turn = np.linspace(0, np.pi / 2, 7)
    corners = []
    x0, y0, x1, y1 = left + radius, top + radius, right - radius, bottom - radius
    for quarter, (x, y) in enumerate(((x1, y1), (x0, y1), (x0, y0), (x1, y0))):
        angle = turn + quarter * np.pi / 2
        corners.append(np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1))
    return _fixed(np.concatenate(corners))


@cache
def ellipse(x: float, y: float, width: float, height: float | None = None, turn: float = 0.0) -> Shape:
    """An ellipse by centre and half axes, turned by `turn` degrees clockwise; a circle without `height`."""
    return arc(x, y, width, height, 0, 360, turn)


@cache
def arc(x: float, y: float, width: float, height: float | None, start: float, end: float, turn: float = 0.0) -> Shape:
    """The part of an ellipse between two angles in degrees, where 0 is right and 90 is down."""
    height = width if height is None else height
    angle = np.radians(np.linspace(start, end, 36))
    along, across = width * np.cos(angle), height * np.sin(angle)
    cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    return _fixed(np.stack([x + along * cos - across * sin, y + along * sin + across * cos], axis=1))


def _spline(points: NDArray[np.float64], closed: bool, steps: int) -> NDArray[np.float64]:
    """Points on the uniform Catmull-Rom spline through `points`."""
    if closed:
        around = np.concatenate([points[-1:], points, points[:2]])
    else:
        around = np.concatenate([points[:1], points, points[-1:]])
    p0, p1, p2, p3 = (around[i : len(around) - 3 + i, None, :] for i in range(4))
    moves = (p1 != p2).any(axis=(1, 2))  # between the two points of a corner there is nothing to draw
    p0, p1, p2, p3 = p0[moves], p1[moves], p2[moves], p3[moves]
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    curve = 0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
    flat: NDArray[np.float64] = curve.reshape(-1, 2)
    return flat if closed else np.concatenate([flat, points[-1:]])


@cache
def smooth(*points: Point) -> Shape:
    """A closed curve through the points; a point given twice in a row is a corner."""
    return _fixed(_spline(np.array(points, dtype=np.float64), closed=True, steps=7))


@cache
def stroke(*points: Point, width: float, end: float | None = None, curved: bool = True) -> Shape:
    """The outline of a brush stroke along the points with round ends; its width runs from `width` to `end`."""
    line = np.array(points, dtype=np.float64)
    if curved and len(line) > 2:
        line = _spline(line, closed=False, steps=7)
    ahead = np.gradient(line, axis=0)
    ahead /= np.maximum(np.linalg.norm(ahead, axis=1, keepdims=True), 1e-9)
    half = np.linspace(width, width if end is None else end, len(line))[:, None] / 2
    side = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1) * half

    def cap(centre: int, sign: float) -> NDArray[np.float64]:
        angle = np.linspace(np.pi / 2, -np.pi / 2, 8)[1:-1, None]
        return line[centre] + sign * np.sin(angle) * side[centre] + sign * np.cos(angle) * ahead[centre] * half[centre]

    return _fixed(np.concatenate([line + side, cap(-1, 1.0), (line - side)[::-1], cap(0, -1.0)]))


def stripes(column: NDArray[np.uint8], width: int) -> Image.Image:
    """A picture whose rows have the colours of `column` `[height, channels]`."""
    return Image.fromarray(column[:, None, :]).resize((width, len(column)), Image.Resampling.NEAREST)


class Pen:
    """Draws unit-coordinate shapes on a picture.

    Args:
        image: what is drawn on; RGBA for things, RGB for backgrounds.
        scale: pixels per unit.
        margin: pixels left free on each side.
        ground: colour of see-through pixels.
    """

    def __init__(self, image: Image.Image, scale: float, margin: int = 0, ground: Rgb = (0, 0, 0)) -> None:
        self.image = image
        self.scale = scale
        self.margin = margin
        self.ground = ground
        self._draw = ImageDraw.Draw(image)

    def _pixels(self, shape: Shape) -> list[float]:
        pixels: list[float] = (shape * self.scale + self.margin).ravel().tolist()
        return pixels

    def fill(self, shape: Shape, colour: Rgb) -> None:
        """Covers the shape with one colour."""
        self._draw.polygon(self._pixels(shape), fill=colour)

    def disc(self, x: float, y: float, radius: float, colour: Rgb) -> None:
        """Draws a disc, quicker than as a shape."""
        x, y, radius = x * self.scale + self.margin, y * self.scale + self.margin, radius * self.scale
        self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)

    def rectangle(self, left: float, top: float, right: float, bottom: float, colour: Rgb) -> None:
        """Draws an upright rectangle, quicker than as a shape."""
        edges = [value * self.scale + self.margin for value in (left, top, right, bottom)]
        self._draw.rectangle(edges, fill=colour)

    def gradient(self, shape: Shape, top: Rgb, bottom: Rgb) -> None:
        """Covers the shape with a gradient from its top to its bottom."""
        pixels = shape * self.scale + self.margin
        low, high = np.floor(pixels.min(axis=0)), np.ceil(pixels.max(axis=0))
        left, upper = (max(0, int(value)) for value in low)
        width, height = (
            int(min(end, size)) - start + 1
            for end, size, start in zip(high, self.image.size, (left, upper), strict=True)
        )
        share = (np.arange(height) + upper - low[1])[:, None] / max(1.0, high[1] - low[1])
        column = np.array(top) + share * (np.array(bottom) - np.array(top))
        mask = Image.new("1", (width, height), 0)
        ImageDraw.Draw(mask).polygon((pixels - (left, upper)).ravel().tolist(), fill=1)
        self.image.paste(stripes((column + 0.5).astype(np.uint8), width), (left, upper), mask)

    def cut(self, shape: Shape) -> None:
        """Makes a see-through hole; only on RGBA pictures."""
        self._draw.polygon(self._pixels(shape), fill=(*self.ground, 0))

    def within(self, shape: Shape, colour: Rgb, *details: tuple[Shape, Rgb]) -> None:
        """Covers the shape with `colour`, then with the details as far as they lie within the shape."""
        layer = Image.new(self.image.mode, self.image.size, colour)
        inner = Pen(layer, self.scale, self.margin)
        for detail, tone in details:
            inner.fill(detail, tone)
        self.paste(layer, shape)

    def paste(self, layer: Image.Image, shape: Shape) -> None:
        """Copies the shape's part of a layer of the same size."""
        mask = Image.new("1", self.image.size, 0)
        ImageDraw.Draw(mask).polygon(self._pixels(shape), fill=1)
        self.image.paste(layer, (0, 0), mask)
