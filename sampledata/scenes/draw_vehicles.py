"""How the vehicles of a scene look."""

from sampledata.scenes.pen import Pen, arc, box, ellipse, polygon, smooth, stroke
from sampledata.scenes.tones import DARK, GLASS, GLASS_DARK, GREY, INK, STEEL, WOOD, WOOD_DARK, Tones


def car(pen: Pen, tones: Tones) -> None:
    """A small car seen from the side."""
    body = smooth(
        (0.02, 0.78), (0.03, 0.62), (0.1, 0.54), (0.2, 0.5), (0.29, 0.32), (0.42, 0.24), (0.58, 0.25), (0.69, 0.34),
        (0.78, 0.5), (0.92, 0.56), (0.98, 0.67), (0.98, 0.82), (0.94, 0.87), (0.94, 0.87), (0.06, 0.87), (0.06, 0.87),
    )  # fmt: skip
    pen.within(
        body,
        tones.base,
        (box(0.0, 0.74, 1.0, 0.9), tones.dark),
        (stroke((0.08, 0.585), (0.2, 0.55), width=0.035), tones.light),
        (stroke((0.34, 0.3), (0.44, 0.27), (0.56, 0.275), width=0.025), tones.light),
        (stroke((0.8, 0.57), (0.9, 0.6), width=0.03), tones.light),
        (stroke((0.5, 0.5), (0.505, 0.84), width=0.014), tones.outline),
        (box(0.55, 0.585, 0.62, 0.61), tones.outline),
    )
    pen.within(
        smooth((0.28, 0.51), (0.28, 0.51), (0.35, 0.36), (0.48, 0.325), (0.48, 0.325), (0.48, 0.51), (0.48, 0.51)),
        GLASS,
        (polygon((0.3, 0.6), (0.42, 0.3), (0.5, 0.3), (0.5, 0.6)), GLASS_DARK),
    )
    pen.within(
        smooth((0.53, 0.325), (0.53, 0.325), (0.63, 0.37), (0.71, 0.51), (0.71, 0.51), (0.53, 0.51), (0.53, 0.51)),
        GLASS,
        (polygon((0.6, 0.6), (0.66, 0.3), (0.8, 0.3), (0.8, 0.6)), GLASS_DARK),
    )
    for x in (0.25, 0.76):
        pen.fill(arc(x, 0.83, 0.165, None, 180, 360), tones.outline)
        _wheel(pen, x, 0.84, 0.135)
    pen.fill(ellipse(0.945, 0.655, 0.035, 0.05), (255, 244, 206))
    pen.fill(box(0.02, 0.64, 0.055, 0.72, 0.012), tones.outline)


def bus(pen: Pen, tones: Tones) -> None:
    """A long bus seen from the side: a row of windows and a door."""
    body = box(0.02, 0.17, 0.98, 0.89, 0.09)
    pen.within(
        body,
        tones.base,
        (stroke((0.1, 0.205), (0.9, 0.205), width=0.028), tones.light),
        (box(0.0, 0.81, 1.0, 1.0), tones.dark),
        (box(0.0, 0.6, 1.0, 0.625), tones.trim),
    )
    for left in (0.08, 0.28, 0.48):
        pen.within(
            box(left, 0.3, left + 0.15, 0.51, 0.03),
            GLASS,
            (polygon((left, 0.56), (left + 0.13, 0.26), (left + 0.2, 0.26), (left + 0.2, 0.56)), GLASS_DARK),
        )
    pen.fill(box(0.695, 0.28, 0.845, 0.84, 0.03), tones.outline)
    pen.fill(box(0.71, 0.295, 0.765, 0.825, 0.015), GLASS)
    pen.fill(box(0.775, 0.295, 0.83, 0.825, 0.015), GLASS_DARK)
    pen.fill(box(0.89, 0.29, 0.98, 0.55, 0.03), GLASS)
    pen.fill(box(0.93, 0.66, 0.985, 0.73, 0.02), (255, 244, 206))
    for x in (0.22, 0.58):
        pen.fill(arc(x, 0.84, 0.135, None, 180, 360), tones.outline)
        _wheel(pen, x, 0.86, 0.112)
    pen.fill(arc(0.9, 0.89, 0.08, 0.06, 180, 360), tones.outline)


def bicycle(pen: Pen, tones: Tones) -> None:
    """A bicycle seen from the side."""
    for x in (0.25, 0.75):
        pen.fill(ellipse(x, 0.73, 0.248), tones.base)
        pen.cut(ellipse(x, 0.73, 0.168))
        for turn in (20, 80, 140):
            pen.fill(ellipse(x, 0.73, 0.18, 0.009, turn), GREY)
        pen.fill(ellipse(x, 0.73, 0.04), DARK)
    tubes = (
        ((0.37, 0.36), (0.47, 0.73)),
        ((0.41, 0.47), (0.67, 0.42)),
        ((0.47, 0.73), (0.68, 0.45)),
        ((0.25, 0.73), (0.47, 0.73)),
        ((0.25, 0.73), (0.41, 0.46)),
        ((0.64, 0.28), (0.75, 0.73)),
    )
    for start, end in tubes:
        pen.fill(stroke(start, end, width=0.085), tones.outline)
    for start, end in tubes:
        pen.fill(stroke(start, end, width=0.066), tones.base)
    pen.fill(ellipse(0.47, 0.73, 0.075), tones.outline)
    pen.fill(ellipse(0.47, 0.73, 0.045), GREY)
    pen.fill(smooth((0.25, 0.3), (0.3, 0.27), (0.48, 0.31), (0.47, 0.345), (0.38, 0.36), (0.3, 0.38)), INK)
    pen.fill(stroke((0.65, 0.28), (0.74, 0.24), (0.84, 0.25), (0.86, 0.32), width=0.055), INK)


def _wheel(pen: Pen, x: float, y: float, radius: float) -> None:
    pen.fill(ellipse(x, y, radius), INK)
    pen.fill(ellipse(x, y, radius * 0.84), DARK)
    pen.fill(ellipse(x, y, radius * 0.5), STEEL)
    pen.fill(ellipse(x, y, radius * 0.2), GREY)


def boat(pen: Pen, tones: Tones) -> None:
    """A sailing boat."""
    pen.fill(box(0.485, 0.02, 0.525, 0.75), WOOD_DARK)
    pen.within(
        smooth((0.54, 0.05), (0.54, 0.05), (0.76, 0.3), (0.94, 0.66), (0.94, 0.66), (0.54, 0.66), (0.54, 0.66)),
        tones.base,
        (polygon((0.5, 0.4), (1.0, 0.4), (1.0, 0.5), (0.5, 0.5)), tones.trim),
        (polygon((0.54, 0.05), (0.58, 0.05), (0.58, 0.7), (0.54, 0.7)), tones.light),
    )
    pen.within(
        smooth((0.47, 0.14), (0.47, 0.14), (0.28, 0.4), (0.1, 0.66), (0.1, 0.66), (0.47, 0.66), (0.47, 0.66)),
        tones.base,
        (polygon((0.47, 0.14), (0.08, 0.7), (0.2, 0.7)), tones.light),
    )
    hull = smooth(
        (0.01, 0.71),
        (0.01, 0.71),
        (0.99, 0.71),
        (0.99, 0.71),
        (0.92, 0.86),
        (0.8, 0.97),
        (0.5, 0.98),
        (0.22, 0.97),
        (0.09, 0.86),
    )
    pen.within(
        hull,
        tones.base,
        (box(0.0, 0.9, 1.0, 1.0), tones.dark),
        (box(0.0, 0.7, 1.0, 0.755), tones.trim),
        (box(0.0, 0.755, 1.0, 0.77), tones.outline),
    )
    for x in (0.3, 0.5, 0.7):
        pen.fill(ellipse(x, 0.835, 0.036), tones.outline)
        pen.fill(ellipse(x, 0.835, 0.024), GLASS)


def balloon(pen: Pen, tones: Tones) -> None:
    """A hot-air balloon with its basket."""
    pen.fill(stroke((0.3, 0.62), (0.42, 0.86), width=0.02), WOOD_DARK)
    pen.fill(stroke((0.7, 0.62), (0.58, 0.86), width=0.02), WOOD_DARK)
    pen.within(
        smooth(
            (0.39, 0.83),
            (0.39, 0.83),
            (0.61, 0.83),
            (0.61, 0.83),
            (0.59, 0.97),
            (0.57, 0.985),
            (0.43, 0.985),
            (0.41, 0.97),
        ),
        WOOD,
        (box(0.3, 0.8, 0.7, 0.865), WOOD_DARK),
        (box(0.53, 0.8, 0.7, 1.0), WOOD_DARK),
    )
    envelope = smooth(
        (0.5, 0.02),
        (0.73, 0.06),
        (0.89, 0.2),
        (0.92, 0.38),
        (0.84, 0.54),
        (0.66, 0.74),
        (0.5, 0.76),
        (0.34, 0.74),
        (0.16, 0.54),
        (0.08, 0.38),
        (0.11, 0.2),
        (0.27, 0.06),
    )
    pen.within(
        envelope,
        tones.base,
        (smooth((0.5, 0.0), (0.8, 0.2), (0.82, 0.42), (0.6, 0.8), (0.9, 0.8), (1.0, 0.4), (0.9, 0.0)), tones.dark),
        (
            smooth((0.5, 0.0), (0.24, 0.16), (0.2, 0.4), (0.42, 0.78), (0.5, 0.78), (0.34, 0.42), (0.36, 0.18)),
            tones.trim,
        ),
        (
            smooth((0.5, 0.0), (0.76, 0.16), (0.8, 0.4), (0.58, 0.78), (0.5, 0.78), (0.66, 0.42), (0.64, 0.18)),
            tones.trim,
        ),
        (stroke((0.17, 0.24), (0.14, 0.38), (0.19, 0.48), width=0.05), tones.light),
    )
    pen.fill(box(0.36, 0.72, 0.64, 0.765, 0.015), tones.outline)


def plane(pen: Pen, tones: Tones) -> None:
    """An airliner climbing, seen from the side and a little above."""
    pen.fill(polygon((0.54, 0.46), (0.36, 0.18), (0.46, 0.16), (0.74, 0.42)), tones.dark)
    pen.fill(polygon((0.2, 0.62), (0.02, 0.34), (0.13, 0.3), (0.36, 0.52)), tones.dark)
    fuselage = smooth(
        (0.05, 0.62),
        (0.1, 0.57),
        (0.3, 0.53),
        (0.6, 0.42),
        (0.78, 0.34),
        (0.91, 0.32),
        (0.98, 0.37),
        (0.96, 0.45),
        (0.84, 0.55),
        (0.6, 0.64),
        (0.3, 0.7),
        (0.12, 0.7),
    )
    pen.within(
        fuselage,
        tones.base,
        (stroke((0.08, 0.72), (0.3, 0.7), (0.6, 0.64), (0.84, 0.55), (1.0, 0.43), width=0.06), tones.dark),
        (stroke((0.14, 0.58), (0.4, 0.52), (0.66, 0.425), (0.8, 0.37), width=0.025), tones.light),
        (polygon((0.85, 0.3), (0.96, 0.3), (0.97, 0.385), (0.87, 0.41)), GLASS),
    )
    for step in range(5):
        pen.fill(ellipse(0.36 + step * 0.092, 0.585 - step * 0.034, 0.026), GLASS)
    pen.fill(polygon((0.44, 0.62), (0.68, 0.55), (0.36, 0.94), (0.24, 0.95)), tones.outline)
    pen.fill(polygon((0.46, 0.625), (0.655, 0.57), (0.35, 0.925), (0.265, 0.93)), tones.base)
    pen.fill(polygon((0.46, 0.625), (0.52, 0.61), (0.3, 0.93), (0.265, 0.93)), tones.light)
    pen.fill(polygon((0.1, 0.64), (0.26, 0.63), (0.08, 0.8), (0.0, 0.8)), tones.dark)
