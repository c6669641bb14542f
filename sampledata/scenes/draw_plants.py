"""How the plants of a scene look; a mushroom counts as one."""

from math import cos, radians, sin

from sampledata.scenes.pen import Pen, Shape, box, ellipse, smooth, stroke
from sampledata.scenes.tones import LEAF, WOOD, WOOD_DARK, Tones


def tree(pen: Pen, tones: Tones) -> None:
    """A round crown on a short trunk."""
    trunk = smooth(
        (0.43, 0.6), (0.57, 0.6), (0.57, 0.85), (0.66, 0.98), (0.66, 0.98), (0.34, 0.98), (0.34, 0.98), (0.43, 0.85)
    )
    pen.within(trunk, WOOD, (box(0.51, 0.5, 0.7, 1.0), WOOD_DARK))
    for x, y, radius in _CROWN:
        pen.disc(x, y, radius, tones.dark)
    for x, y, radius in _CROWN:
        pen.disc(x - 0.012, y - 0.03, radius - 0.032, tones.base)
    for x, y, radius in ((0.42, 0.17, 0.11), (0.22, 0.3, 0.075), (0.66, 0.27, 0.06)):
        pen.disc(x, y, radius, tones.light)
        pen.disc(x + 0.02, y + 0.035, radius, tones.base)
    for x, y, radius in ((0.36, 0.44, 0.1), (0.66, 0.47, 0.1), (0.52, 0.6, 0.08)):
        pen.disc(x, y, radius, tones.dark)
        pen.disc(x - 0.01, y - 0.035, radius, tones.base)


_CROWN = (
    (0.5, 0.25, 0.235), (0.27, 0.33, 0.19), (0.74, 0.33, 0.19), (0.19, 0.51, 0.165), (0.81, 0.51, 0.165),
    (0.37, 0.59, 0.17), (0.63, 0.59, 0.17), (0.5, 0.44, 0.26),
)  # fmt: skip
"""Discs that make up a tree's crown: centre and radius."""


def flower(pen: Pen, tones: Tones) -> None:
    """Eight petals on a stem with two leaves."""
    pen.fill(stroke((0.5, 0.5), (0.52, 0.75), (0.5, 0.97), width=0.06), LEAF)
    pen.fill(smooth((0.51, 0.92), (0.51, 0.92), (0.6, 0.76), (0.82, 0.72), (0.82, 0.72), (0.74, 0.88)), LEAF)
    pen.fill(smooth((0.5, 0.95), (0.5, 0.95), (0.42, 0.82), (0.2, 0.79), (0.2, 0.79), (0.28, 0.92)), LEAF)
    for turn in range(0, 360, 45):
        pen.fill(_petal(turn, 0.235, 0.163, 0.118), tones.outline)
        pen.fill(_petal(turn, 0.235, 0.148, 0.103), tones.base)
    for turn in range(0, 360, 45):
        pen.fill(_petal(turn, 0.13, 0.07, 0.045), tones.dark)
        pen.fill(_petal(turn + 6, 0.31, 0.06, 0.03), tones.light)
    pen.fill(ellipse(0.5, 0.41, 0.125), tones.outline)
    pen.fill(ellipse(0.5, 0.41, 0.108), (128, 88, 60))
    pen.fill(ellipse(0.48, 0.39, 0.06), (158, 114, 80))


def _petal(turn: float, distance: float, length: float, width: float) -> Shape:
    angle = radians(turn)
    return ellipse(0.5 + distance * cos(angle), 0.41 + distance * sin(angle), length, width, turn)


def mushroom(pen: Pen, tones: Tones) -> None:
    """A spotted cap on a thick stem."""
    stem = smooth(
        (0.37, 0.5), (0.63, 0.5), (0.63, 0.74), (0.7, 0.92), (0.6, 0.98), (0.4, 0.98), (0.3, 0.92), (0.37, 0.74)
    )
    pen.within(
        stem,
        (240, 230, 212),
        (smooth((0.54, 0.4), (0.75, 0.4), (0.75, 1.0), (0.55, 1.0), (0.6, 0.85)), (214, 200, 180)),
        (ellipse(0.5, 0.55, 0.3, 0.1), (196, 180, 160)),
    )
    cap = smooth(
        (0.02, 0.52), (0.05, 0.36), (0.17, 0.16), (0.36, 0.05), (0.5, 0.03), (0.64, 0.05), (0.83, 0.16), (0.95, 0.36),
        (0.98, 0.52), (0.9, 0.6), (0.7, 0.635), (0.5, 0.645), (0.3, 0.635), (0.1, 0.6),
    )  # fmt: skip
    spot = tones.trim
    pen.within(
        cap,
        tones.dark,
        (ellipse(0.47, 0.3, 0.55, 0.3), tones.base),
        (ellipse(0.24, 0.22, 0.13, 0.06, -42), tones.light),
        (ellipse(0.5, 0.2, 0.11, 0.09), spot),
        (ellipse(0.25, 0.4, 0.085, 0.08), spot),
        (ellipse(0.73, 0.36, 0.095, 0.085), spot),
        (ellipse(0.51, 0.48, 0.07, 0.055), spot),
        (ellipse(0.95, 0.53, 0.07, 0.07), spot),
        (ellipse(0.05, 0.54, 0.06, 0.06), spot),
    )
