"""How the animals of a scene look."""

from sampledata.scenes.pen import Pen, arc, box, ellipse, polygon, smooth, stroke
from sampledata.scenes.tones import DARK, INK, WHITE, Tones


def cat(pen: Pen, tones: Tones) -> None:
    """A sitting cat seen from the front, its tail up beside it."""
    pen.fill(
        stroke((0.66, 0.92), (0.88, 0.9), (0.9, 0.7), (0.82, 0.56), (0.88, 0.42), width=0.12, end=0.1), tones.outline
    )
    pen.fill(
        stroke((0.66, 0.92), (0.88, 0.9), (0.9, 0.7), (0.82, 0.56), (0.88, 0.42), width=0.09, end=0.07), tones.base
    )
    body = smooth(
        (0.42, 0.48), (0.58, 0.5), (0.7, 0.72), (0.74, 0.9), (0.66, 0.98), (0.22, 0.98), (0.14, 0.9), (0.2, 0.7)
    )
    pen.within(
        body,
        tones.base,
        (smooth((0.62, 0.45), (0.8, 0.6), (0.8, 1.0), (0.56, 1.02), (0.64, 0.8)), tones.dark),
        (ellipse(0.43, 0.68, 0.11, 0.15), tones.light),
        (stroke((0.37, 0.8), (0.36, 0.99), width=0.018), tones.outline),
        (stroke((0.51, 0.8), (0.52, 0.99), width=0.018), tones.outline),
        (stroke((0.44, 0.84), (0.44, 0.99), width=0.018), tones.outline),
    )
    head = smooth(
        (0.12, 0.04), (0.12, 0.04), (0.31, 0.15), (0.44, 0.13), (0.57, 0.15), (0.76, 0.04), (0.76, 0.04), (0.79, 0.3),
        (0.76, 0.43), (0.63, 0.54), (0.44, 0.57), (0.25, 0.54), (0.12, 0.43), (0.09, 0.3),
    )  # fmt: skip
    pen.fill(ellipse(0.44, 0.54, 0.22, 0.05), tones.outline)
    pen.within(
        head,
        tones.base,
        (smooth((0.66, 0.1), (0.9, 0.1), (0.9, 0.6), (0.4, 0.62), (0.6, 0.52), (0.7, 0.38)), tones.dark),
        (polygon((0.155, 0.1), (0.26, 0.165), (0.15, 0.25)), tones.light),
        (polygon((0.725, 0.1), (0.62, 0.165), (0.73, 0.25)), tones.light),
        (ellipse(0.44, 0.46, 0.14, 0.085), tones.light),
        (stroke((0.44, 0.13), (0.44, 0.22), width=0.03), tones.dark),
        (stroke((0.37, 0.14), (0.38, 0.2), width=0.03), tones.dark),
        (stroke((0.51, 0.14), (0.5, 0.2), width=0.03), tones.dark),
    )
    _eye(pen, 0.3, 0.33, 0.055)
    _eye(pen, 0.58, 0.33, 0.055)
    pen.fill(polygon((0.4, 0.405), (0.48, 0.405), (0.44, 0.45)), INK)
    pen.fill(stroke((0.36, 0.475), (0.4, 0.495), (0.44, 0.45), (0.48, 0.495), (0.52, 0.475), width=0.016), INK)


def dog(pen: Pen, tones: Tones) -> None:
    """A standing dog seen from the side, with a snout and a hanging ear."""
    for x in (0.28, 0.63):
        pen.fill(box(x, 0.66, x + 0.1, 0.95, 0.04), tones.dark)
    pen.fill(stroke((0.14, 0.52), (0.06, 0.4), (0.07, 0.24), width=0.1, end=0.06), tones.base)
    body = smooth(
        (0.1, 0.56), (0.18, 0.46), (0.4, 0.47), (0.58, 0.42), (0.74, 0.4), (0.8, 0.55), (0.76, 0.7), (0.76, 0.94),
        (0.72, 0.97), (0.64, 0.97), (0.62, 0.93), (0.62, 0.76), (0.45, 0.76), (0.28, 0.75), (0.25, 0.82), (0.25, 0.94),
        (0.21, 0.97), (0.13, 0.97), (0.11, 0.93), (0.11, 0.75),
    )  # fmt: skip
    pen.within(
        body,
        tones.base,
        (ellipse(0.43, 0.79, 0.2, 0.07), tones.dark),
        (ellipse(0.3, 0.52, 0.1, 0.03, -5), tones.light),
    )
    head = smooth(
        (0.52, 0.3), (0.54, 0.14), (0.68, 0.06), (0.8, 0.12), (0.85, 0.22), (0.95, 0.26), (0.98, 0.34), (0.93, 0.42),
        (0.8, 0.45), (0.7, 0.5), (0.57, 0.44),
    )  # fmt: skip
    pen.fill(stroke((0.58, 0.47), (0.69, 0.525), (0.79, 0.49), width=0.06), DARK)
    pen.within(
        head,
        tones.base,
        (ellipse(0.9, 0.4, 0.14, 0.08), tones.light),
        (ellipse(0.66, 0.5, 0.2, 0.06), tones.dark),
    )
    ear = smooth((0.58, 0.1), (0.66, 0.16), (0.65, 0.32), (0.57, 0.44), (0.49, 0.41), (0.48, 0.24))
    pen.fill(ear, tones.outline)
    pen.fill(smooth((0.58, 0.12), (0.64, 0.17), (0.63, 0.31), (0.565, 0.42), (0.51, 0.39), (0.5, 0.25)), tones.dark)
    _eye(pen, 0.76, 0.22, 0.04)
    pen.fill(ellipse(0.955, 0.285, 0.045, 0.038), INK)
    pen.fill(stroke((0.94, 0.37), (0.88, 0.39), (0.82, 0.36), width=0.016), INK)


def rabbit(pen: Pen, tones: Tones) -> None:
    """A crouching rabbit seen from the side, long ears up."""
    pen.fill(ellipse(0.12, 0.74, 0.11), tones.trim)
    far = smooth((0.66, 0.32), (0.66, 0.14), (0.73, 0.02), (0.79, 0.1), (0.77, 0.24), (0.74, 0.36))
    pen.within(far, tones.dark, (ellipse(0.72, 0.2, 0.025, 0.12, 8), tones.base))
    body = smooth(
        (0.14, 0.82), (0.14, 0.64), (0.26, 0.48), (0.44, 0.44), (0.6, 0.5), (0.72, 0.62), (0.76, 0.8), (0.82, 0.93),
        (0.78, 0.98), (0.5, 0.98), (0.24, 0.98), (0.16, 0.93),
    )  # fmt: skip
    pen.within(
        body,
        tones.base,
        (smooth((0.56, 0.98), (0.56, 0.76), (0.68, 0.62), (0.9, 0.6), (0.9, 1.0)), tones.light),
        (stroke((0.6, 0.98), (0.62, 0.84), (0.6, 0.76), width=0.02), tones.outline),
        (arc(0.36, 0.8, 0.2, 0.2, 60, 330), tones.dark),
        (ellipse(0.345, 0.815, 0.19, 0.185), tones.base),
        (box(0.1, 0.945, 0.52, 1.0), tones.dark),
        (ellipse(0.3, 0.54, 0.1, 0.04, -35), tones.light),
    )
    near = smooth((0.56, 0.38), (0.5, 0.24), (0.5, 0.08), (0.56, 0.01), (0.63, 0.1), (0.66, 0.26), (0.67, 0.36))
    pen.fill(near, tones.outline)
    inner = smooth((0.575, 0.38), (0.52, 0.24), (0.52, 0.09), (0.56, 0.035), (0.612, 0.11), (0.64, 0.26), (0.65, 0.36))
    pen.within(inner, tones.base, (ellipse(0.575, 0.2, 0.026, 0.12, -10), tones.light))
    head = smooth(
        (0.54, 0.46),
        (0.57, 0.34),
        (0.7, 0.29),
        (0.84, 0.34),
        (0.93, 0.45),
        (0.94, 0.54),
        (0.84, 0.61),
        (0.68, 0.62),
        (0.57, 0.56),
    )
    pen.fill(ellipse(0.68, 0.59, 0.11, 0.05), tones.dark)
    pen.within(
        head, tones.base, (ellipse(0.88, 0.58, 0.14, 0.09), tones.light), (ellipse(0.62, 0.62, 0.12, 0.06), tones.dark)
    )
    _eye(pen, 0.77, 0.42, 0.045)
    pen.fill(ellipse(0.935, 0.475, 0.028, 0.024), INK)


def snail(pen: Pen, tones: Tones) -> None:
    """A big coiled shell on a pale foot, eyes on stalks."""
    skin, shade = (226, 208, 180), (196, 174, 144)
    pen.fill(stroke((0.83, 0.66), (0.83, 0.52), (0.8, 0.4), width=0.045), skin)
    pen.fill(stroke((0.9, 0.66), (0.93, 0.54), (0.95, 0.44), width=0.045), skin)
    foot = smooth(
        (0.02, 0.97), (0.02, 0.97), (0.18, 0.86), (0.5, 0.84), (0.7, 0.8), (0.76, 0.66), (0.86, 0.61), (0.95, 0.66),
        (0.97, 0.78), (0.92, 0.9), (0.82, 0.98), (0.82, 0.98),
    )  # fmt: skip
    pen.within(foot, skin, (box(0.0, 0.93, 1.0, 1.0), shade))
    pen.fill(ellipse(0.795, 0.38, 0.042), INK)
    pen.fill(ellipse(0.955, 0.42, 0.042), INK)
    pen.fill(stroke((0.88, 0.8), (0.92, 0.81), (0.95, 0.785), width=0.018), INK)
    pen.fill(ellipse(0.4, 0.49, 0.405), tones.outline)
    pen.within(
        ellipse(0.4, 0.49, 0.385),
        tones.dark,
        (ellipse(0.37, 0.45, 0.36), tones.base),
        (ellipse(0.22, 0.25, 0.12, 0.05, -45), tones.light),
        (
            stroke(
                (0.78, 0.66), (0.62, 0.74), (0.4, 0.75), (0.2, 0.62), (0.17, 0.42), (0.32, 0.27), (0.53, 0.3),
                (0.61, 0.46), (0.53, 0.6), (0.38, 0.58), (0.33, 0.47), (0.42, 0.42),
                width=0.055, end=0.035,
            ),
            tones.outline,
        ),
    )  # fmt: skip


def bird(pen: Pen, tones: Tones) -> None:
    """A flying bird seen from the side, its wings raised."""
    far = smooth((0.56, 0.46), (0.6, 0.2), (0.74, 0.04), (0.74, 0.04), (0.78, 0.26), (0.72, 0.46))
    pen.fill(far, tones.dark)
    tail = polygon((0.3, 0.56), (0.02, 0.6), (0.09, 0.68), (0.01, 0.76), (0.12, 0.79), (0.1, 0.87), (0.34, 0.74))
    pen.fill(tail, tones.dark)
    pen.fill(polygon((0.88, 0.5), (1.0, 0.57), (0.88, 0.62)), (226, 168, 84))
    body = smooth(
        (0.2, 0.66), (0.34, 0.55), (0.56, 0.5), (0.68, 0.42), (0.8, 0.39), (0.9, 0.46), (0.92, 0.56), (0.87, 0.68),
        (0.74, 0.8), (0.54, 0.85), (0.34, 0.8),
    )  # fmt: skip
    pen.within(body, tones.base, (ellipse(0.7, 0.8, 0.26, 0.14, -25), tones.light))
    wing = smooth(
        (0.66, 0.64),
        (0.68, 0.5),
        (0.56, 0.28),
        (0.28, 0.08),
        (0.28, 0.08),
        (0.24, 0.26),
        (0.28, 0.44),
        (0.4, 0.62),
        (0.52, 0.69),
    )
    pen.fill(wing, tones.outline)
    pen.within(
        smooth(
            (0.64, 0.63),
            (0.66, 0.5),
            (0.55, 0.3),
            (0.295, 0.11),
            (0.295, 0.11),
            (0.26, 0.26),
            (0.3, 0.43),
            (0.41, 0.6),
            (0.52, 0.67),
        ),
        tones.base,
        (smooth((0.2, 0.2), (0.3, 0.34), (0.46, 0.52), (0.56, 0.66), (0.4, 0.7), (0.2, 0.45)), tones.dark),
        (stroke((0.36, 0.2), (0.52, 0.34), (0.6, 0.48), width=0.03), tones.light),
    )
    _eye(pen, 0.815, 0.505, 0.042)


def butterfly(pen: Pen, tones: Tones) -> None:
    """A butterfly seen from above, wings spread."""
    upper = (
        (0.49, 0.42),
        (0.38, 0.2),
        (0.2, 0.06),
        (0.05, 0.08),
        (0.02, 0.26),
        (0.1, 0.44),
        (0.28, 0.54),
        (0.48, 0.54),
    )
    lower = ((0.48, 0.52), (0.26, 0.55), (0.1, 0.66), (0.1, 0.84), (0.22, 0.96), (0.36, 0.9), (0.46, 0.72))
    for mirrored in (False, True):
        side = [[((1 - x) if mirrored else x, y) for x, y in points] for points in (upper, lower)]

        def at(x: float, mirrored: bool = mirrored) -> float:
            return 1 - x if mirrored else x

        lean = -1 if mirrored else 1
        pen.within(
            smooth(*side[1]),
            tones.dark,
            (ellipse(at(0.32), 0.68, 0.17, 0.16), tones.base),
            (ellipse(at(0.21), 0.8, 0.12, 0.1), tones.base),
            (ellipse(at(0.24), 0.78, 0.055), tones.trim),
        )
        pen.within(
            smooth(*side[0]),
            tones.outline,
            (ellipse(at(0.26), 0.31, 0.29, 0.19, lean * 42), tones.base),
            (ellipse(at(0.33), 0.44, 0.2, 0.11, lean * 20), tones.base),
            (ellipse(at(0.17), 0.22, 0.085, 0.06, lean * 42), tones.light),
            (ellipse(at(0.13), 0.36, 0.042), tones.trim),
        )
        pen.fill(stroke((0.5, 0.3), (at(0.44), 0.16), (at(0.36), 0.08), width=0.026), INK)
        pen.fill(ellipse(at(0.36), 0.08, 0.028), INK)
    pen.fill(stroke((0.5, 0.32), (0.5, 0.84), width=0.09, end=0.05), INK)
    pen.fill(ellipse(0.5, 0.3, 0.062), INK)


def fish(pen: Pen, tones: Tones) -> None:
    """A round fish seen from the side."""
    pen.within(
        smooth(
            (0.26, 0.5), (0.16, 0.36), (0.02, 0.22), (0.02, 0.22), (0.06, 0.5), (0.02, 0.8), (0.02, 0.8), (0.16, 0.66)
        ),
        tones.dark,
        (stroke((0.2, 0.5), (0.04, 0.5), width=0.03), tones.base),
        (stroke((0.2, 0.44), (0.06, 0.33), width=0.03), tones.base),
        (stroke((0.2, 0.56), (0.06, 0.69), width=0.03), tones.base),
    )
    pen.fill(smooth((0.38, 0.32), (0.36, 0.1), (0.36, 0.1), (0.58, 0.12), (0.76, 0.28)), tones.dark)
    pen.fill(smooth((0.5, 0.74), (0.36, 0.9), (0.36, 0.9), (0.54, 0.9), (0.66, 0.76)), tones.dark)
    body = smooth(
        (0.18, 0.5),
        (0.32, 0.32),
        (0.54, 0.21),
        (0.78, 0.25),
        (0.93, 0.4),
        (0.98, 0.52),
        (0.92, 0.64),
        (0.76, 0.77),
        (0.54, 0.79),
        (0.32, 0.68),
    )
    scales = []
    for x, y in ((0.35, 0.47), (0.46, 0.38), (0.46, 0.52), (0.57, 0.32), (0.57, 0.45)):
        scales += [(arc(x, y, 0.05, 0.06, -80, 80), tones.dark), (arc(x - 0.02, y, 0.05, 0.06, -80, 80), tones.base)]
    pen.within(
        body,
        tones.base,
        (ellipse(0.62, 0.8, 0.4, 0.16), tones.light),
        *scales,
        (stroke((0.7, 0.3), (0.645, 0.5), (0.7, 0.7), width=0.03), tones.dark),
    )
    pen.fill(smooth((0.63, 0.57), (0.5, 0.56), (0.4, 0.66), (0.4, 0.66), (0.52, 0.7), (0.62, 0.66)), tones.outline)
    pen.fill(smooth((0.62, 0.58), (0.5, 0.575), (0.425, 0.653), (0.425, 0.653), (0.52, 0.68), (0.61, 0.65)), tones.dark)
    pen.fill(ellipse(0.82, 0.42, 0.07), WHITE)
    pen.fill(ellipse(0.835, 0.42, 0.045), INK)
    pen.fill(stroke((0.96, 0.56), (0.91, 0.575), (0.87, 0.55), width=0.02), tones.outline)


def _eye(pen: Pen, x: float, y: float, radius: float) -> None:
    pen.fill(ellipse(x, y, radius), INK)
    pen.fill(ellipse(x + radius * 0.3, y - radius * 0.35, radius * 0.36), WHITE)
