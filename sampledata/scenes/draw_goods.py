"""How the buildings, household goods and toys of a scene look."""

from sampledata.scenes.pen import Pen, arc, box, ellipse, polygon, smooth, stroke
from sampledata.scenes.tones import DARK, GLASS, GLASS_DARK, INK, WHITE, WOOD, WOOD_DARK, Tones


def house(pen: Pen, tones: Tones) -> None:
    """A house with a gable roof, a door and two windows."""
    pen.within(box(0.7, 0.1, 0.82, 0.4), (156, 142, 138), (box(0.77, 0.0, 0.9, 0.5), (132, 118, 116)))
    pen.fill(box(0.68, 0.08, 0.84, 0.14), (120, 108, 108))
    pen.within(
        box(0.1, 0.4, 0.9, 0.98),
        tones.base,
        (box(0.78, 0.4, 0.92, 1.0), tones.dark),
        (box(0.0, 0.4, 1.0, 0.52), tones.dark),
        (box(0.0, 0.94, 1.0, 1.0), (170, 164, 160)),
    )
    roof = polygon((0.5, 0.03), (0.99, 0.47), (0.95, 0.51), (0.05, 0.51), (0.01, 0.47))
    tiles = tuple(
        (arc(x, y, 0.045, 0.024, 0, 180), tones.outline) for y in (0.22, 0.32, 0.42) for x in _spread(0.5, 0.13, y)
    )
    pen.within(roof, tones.dark, *tiles, (stroke((0.03, 0.45), (0.5, 0.045), width=0.035), tones.base))
    pen.fill(box(0.01, 0.475, 0.99, 0.515, 0.015), tones.outline)
    pen.fill(box(0.41, 0.645, 0.6, 0.97, 0.02), tones.outline)
    pen.fill(box(0.43, 0.665, 0.58, 0.97), WOOD)
    pen.fill(box(0.505, 0.665, 0.58, 0.97), WOOD_DARK)
    pen.fill(ellipse(0.475, 0.83, 0.016), (240, 220, 160))
    for left in (0.17, 0.66):
        pen.fill(box(left, 0.6, left + 0.18, 0.79), WHITE)
        pen.fill(box(left + 0.02, 0.62, left + 0.16, 0.77), GLASS)
        pen.fill(polygon((left + 0.02, 0.77), (left + 0.16, 0.62), (left + 0.16, 0.77)), GLASS_DARK)
        pen.fill(box(left + 0.08, 0.61, left + 0.1, 0.78), WHITE)
        pen.fill(box(left, 0.79, left + 0.18, 0.815), tones.outline)


def _spread(centre: float, step: float, y: float) -> tuple[float, ...]:
    reach = int((y - 0.06) / step)
    return tuple(centre + step * i for i in range(-reach, reach + 1))


def tent(pen: Pen, tones: Tones) -> None:
    """A ridge tent with an open flap."""
    pen.fill(stroke((0.36, 0.1), (0.36, 0.3), width=0.03), WOOD)
    pen.fill(stroke((0.84, 0.2), (0.84, 0.34), width=0.03), WOOD)
    pen.within(
        smooth(
            (0.36, 0.18),
            (0.36, 0.18),
            (0.6, 0.25),
            (0.84, 0.26),
            (0.84, 0.26),
            (0.99, 0.93),
            (0.99, 0.93),
            (0.68, 0.97),
            (0.68, 0.97),
        ),
        tones.dark,
        (polygon((0.44, 0.1), (0.56, 0.1), (0.86, 1.0), (0.76, 1.0)), tones.base),
        (polygon((0.66, 0.1), (0.76, 0.1), (0.99, 1.0), (0.92, 1.0)), tones.base),
    )
    front = smooth(
        (0.36, 0.17), (0.36, 0.17), (0.21, 0.62), (0.01, 0.97), (0.01, 0.97), (0.7, 0.97), (0.7, 0.97), (0.5, 0.62)
    )
    pen.within(
        front,
        tones.base,
        (polygon((0.36, 0.36), (0.2, 1.0), (0.52, 1.0)), INK),
        (polygon((0.36, 0.36), (0.36, 0.5), (0.24, 1.0), (0.15, 1.0), (0.24, 0.78)), tones.light),
        (polygon((0.36, 0.36), (0.36, 0.5), (0.48, 1.0), (0.56, 1.0), (0.48, 0.78)), tones.light),
        (stroke((0.36, 0.15), (0.21, 0.62), (0.0, 0.98), width=0.03), tones.light),
        (stroke((0.36, 0.15), (0.5, 0.62), (0.71, 0.98), width=0.02), tones.outline),
    )


def umbrella(pen: Pen, tones: Tones) -> None:
    """An open umbrella with a crook handle."""
    pen.fill(stroke((0.5, 0.02), (0.5, 0.1), width=0.035), WOOD_DARK)
    pen.fill(stroke((0.5, 0.4), (0.5, 0.8), (0.5, 0.88), (0.43, 0.95), (0.35, 0.94), (0.32, 0.87), width=0.05), WOOD)
    canopy = smooth(
        (0.5, 0.06), (0.72, 0.11), (0.9, 0.28), (0.99, 0.56), (0.99, 0.56), (0.9, 0.49), (0.75, 0.56), (0.75, 0.56),
        (0.63, 0.49), (0.5, 0.56), (0.5, 0.56), (0.37, 0.49), (0.25, 0.56), (0.25, 0.56), (0.1, 0.49), (0.01, 0.56),
        (0.01, 0.56), (0.1, 0.28), (0.28, 0.11),
    )  # fmt: skip
    pen.within(
        canopy,
        tones.base,
        (
            smooth(
                (0.5, 0.06),
                (0.5, 0.06),
                (0.7, 0.3),
                (0.75, 0.6),
                (0.75, 0.6),
                (1.0, 0.62),
                (1.0, 0.62),
                (0.95, 0.2),
                (0.7, 0.02),
            ),
            tones.dark,
        ),
        (
            smooth(
                (0.5, 0.06), (0.5, 0.06), (0.68, 0.28), (0.75, 0.58), (0.75, 0.58), (0.5, 0.6), (0.5, 0.6), (0.52, 0.3)
            ),
            tones.base,
        ),
        (
            smooth(
                (0.45, 0.08),
                (0.45, 0.08),
                (0.18, 0.24),
                (0.08, 0.5),
                (0.08, 0.5),
                (0.16, 0.5),
                (0.16, 0.5),
                (0.26, 0.26),
            ),
            tones.light,
        ),
        (stroke((0.5, 0.07), (0.33, 0.26), (0.25, 0.57), width=0.02), tones.outline),
        (stroke((0.5, 0.07), (0.67, 0.26), (0.75, 0.57), width=0.02), tones.outline),
        (stroke((0.5, 0.07), (0.5, 0.57), width=0.02), tones.outline),
    )


def chair(pen: Pen, tones: Tones) -> None:
    """A wooden chair seen from half its side."""
    pen.fill(box(0.36, 0.6, 0.43, 0.88), tones.dark)
    pen.fill(box(0.8, 0.58, 0.87, 0.88), tones.dark)
    pen.fill(box(0.4, 0.72, 0.84, 0.77), tones.dark)
    pen.fill(polygon((0.13, 0.03), (0.23, 0.03), (0.25, 0.97), (0.15, 0.97)), tones.base)
    pen.fill(polygon((0.4, 0.06), (0.48, 0.06), (0.46, 0.6), (0.39, 0.6)), tones.base)
    for top in (0.08, 0.25, 0.42):
        pen.fill(
            polygon((0.18, top - 0.012), (0.45, top + 0.008), (0.45, top + 0.118), (0.18, top + 0.122)), tones.outline
        )
        pen.fill(polygon((0.18, top), (0.45, top + 0.02), (0.45, top + 0.105), (0.18, top + 0.11)), tones.base)
        pen.fill(polygon((0.2, top + 0.005), (0.45, top + 0.02), (0.45, top + 0.04), (0.2, top + 0.03)), tones.light)
    seat = polygon((0.17, 0.6), (0.42, 0.53), (0.92, 0.53), (0.8, 0.62))
    pen.fill(polygon((0.15, 0.6), (0.8, 0.62), (0.92, 0.53), (0.92, 0.6), (0.8, 0.71), (0.15, 0.69)), tones.dark)
    pen.fill(box(0.15, 0.6, 0.8, 0.695), tones.base)
    pen.fill(seat, tones.light)
    pen.fill(stroke((0.15, 0.6), (0.8, 0.605), width=0.016), tones.outline)
    pen.fill(box(0.15, 0.69, 0.25, 0.97), tones.base)
    pen.fill(box(0.7, 0.69, 0.8, 0.97), tones.base)
    pen.fill(box(0.22, 0.69, 0.25, 0.97), tones.dark)
    pen.fill(box(0.77, 0.69, 0.8, 0.97), tones.dark)
    pen.fill(box(0.24, 0.8, 0.71, 0.85), tones.base)
    pen.fill(box(0.15, 0.685, 0.8, 0.7), tones.outline)


def cup(pen: Pen, tones: Tones) -> None:
    """A mug of tea with its handle at the right."""
    pen.fill(smooth((0.62, 0.34), (0.84, 0.28), (0.98, 0.42), (0.95, 0.64), (0.8, 0.79), (0.58, 0.82)), tones.dark)
    pen.cut(smooth((0.66, 0.44), (0.8, 0.4), (0.88, 0.48), (0.85, 0.6), (0.76, 0.68), (0.62, 0.7)))
    body = smooth(
        (0.03, 0.24), (0.03, 0.24), (0.74, 0.24), (0.74, 0.24), (0.73, 0.6), (0.66, 0.86), (0.56, 0.96), (0.38, 0.98),
        (0.21, 0.96), (0.11, 0.86), (0.04, 0.6),
    )  # fmt: skip
    pen.within(
        body,
        tones.base,
        (smooth((0.58, 0.2), (0.8, 0.2), (0.8, 1.0), (0.3, 1.02), (0.5, 0.88), (0.57, 0.6)), tones.dark),
        (stroke((0.14, 0.42), (0.15, 0.6), (0.2, 0.78), width=0.06, end=0.04), tones.light),
    )
    pen.fill(ellipse(0.385, 0.23, 0.36, 0.115), tones.outline)
    pen.fill(ellipse(0.385, 0.225, 0.345, 0.1), tones.light)
    pen.fill(ellipse(0.385, 0.245, 0.3, 0.075), (128, 84, 56))
    pen.fill(ellipse(0.3, 0.235, 0.12, 0.02), (168, 122, 90))


def ball(pen: Pen, tones: Tones) -> None:
    """A beach ball."""
    pen.within(
        ellipse(0.5, 0.5, 0.475),
        tones.dark,
        (ellipse(0.45, 0.44, 0.45), tones.base),
        (
            smooth(
                (0.36, 0.2),
                (0.36, 0.2),
                (0.18, 0.4),
                (0.12, 0.7),
                (0.2, 0.95),
                (0.2, 0.95),
                (0.4, 1.05),
                (0.4, 1.05),
                (0.34, 0.7),
                (0.36, 0.4),
            ),
            tones.trim,
        ),
        (
            smooth(
                (0.36, 0.2),
                (0.36, 0.2),
                (0.6, 0.24),
                (0.86, 0.4),
                (1.05, 0.62),
                (1.05, 0.62),
                (1.08, 0.4),
                (1.0, 0.2),
                (0.84, 0.08),
                (0.6, 0.1),
            ),
            tones.trim,
        ),
        (ellipse(0.36, 0.2, 0.075, 0.06, -20), tones.outline),
        (ellipse(0.355, 0.195, 0.055, 0.042, -20), tones.light),
        (ellipse(0.24, 0.36, 0.05, 0.1, 30), tones.light),
    )


def gift(pen: Pen, tones: Tones) -> None:
    """A wrapped box with a ribbon and a bow."""
    ribbon, fold = tones.trim, (206, 200, 196) if tones.trim[0] > 200 else (140, 148, 168)
    pen.within(
        box(0.09, 0.42, 0.91, 0.98, 0.02),
        tones.base,
        (box(0.74, 0.4, 1.0, 1.0), tones.dark),
        (box(0.0, 0.4, 1.0, 0.5), tones.dark),
        (box(0.42, 0.4, 0.58, 1.0), ribbon),
        (box(0.42, 0.4, 0.58, 0.5), fold),
    )
    pen.within(
        box(0.03, 0.28, 0.97, 0.46, 0.02),
        tones.base,
        (box(0.0, 0.28, 1.0, 0.325), tones.light),
        (box(0.0, 0.44, 1.0, 0.47), tones.dark),
        (box(0.42, 0.2, 0.58, 0.5), ribbon),
    )
    for sign in (-1, 1):
        loop = smooth(
            (0.5, 0.27),
            (0.5, 0.27),
            (0.5 + sign * 0.1, 0.08),
            (0.5 + sign * 0.27, 0.03),
            (0.5 + sign * 0.33, 0.13),
            (0.5 + sign * 0.24, 0.24),
        )
        pen.fill(loop, tones.outline)
        inner = smooth(
            (0.5, 0.26),
            (0.5, 0.26),
            (0.5 + sign * 0.11, 0.1),
            (0.5 + sign * 0.26, 0.05),
            (0.5 + sign * 0.31, 0.13),
            (0.5 + sign * 0.23, 0.225),
        )
        pen.within(inner, ribbon, (ellipse(0.5 + sign * 0.18, 0.16, 0.085, 0.04, sign * -25), fold))
    pen.fill(ellipse(0.5, 0.245, 0.075, 0.065), tones.outline)
    pen.fill(ellipse(0.5, 0.24, 0.06, 0.05), ribbon)


def kite(pen: Pen, tones: Tones) -> None:
    """A diamond kite with a tail of bows."""
    pen.fill(stroke((0.34, 0.7), (0.24, 0.76), (0.24, 0.86), (0.14, 0.9), (0.08, 0.98), width=0.028), DARK)
    for x, y, lean in ((0.245, 0.8, 20), (0.15, 0.9, -20)):
        pen.fill(ellipse(x - 0.055, y, 0.06, 0.034, lean), tones.dark)
        pen.fill(ellipse(x + 0.055, y, 0.06, 0.034, lean), tones.dark)
    top, right, bottom, left, centre = (0.72, 0.02), (0.96, 0.44), (0.32, 0.72), (0.26, 0.18), (0.585, 0.3)
    pen.fill(polygon(top, right, bottom, left), tones.base)
    pen.fill(polygon(top, left, centre), tones.light)
    pen.fill(polygon(right, bottom, centre), tones.dark)
    pen.fill(stroke(top, bottom, width=0.022), tones.outline)
    pen.fill(stroke(left, right, width=0.022), tones.outline)
