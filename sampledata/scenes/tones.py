"""The tones a thing of one colour is drawn with, and the neutral tones that go with every colour."""

from dataclasses import dataclass
from functools import cache

from imagecap.eval.scenes.world import COLOURS
from sampledata.scenes.pen import Rgb, mix

INK: Rgb = (44, 42, 52)
DARK: Rgb = (70, 70, 82)
GREY: Rgb = (150, 152, 162)
STEEL: Rgb = (206, 208, 216)
WHITE: Rgb = (255, 255, 255)
GLASS: Rgb = (212, 230, 238)
GLASS_DARK: Rgb = (172, 198, 212)
WOOD: Rgb = (142, 104, 76)
WOOD_DARK: Rgb = (112, 80, 60)
LEAF: Rgb = (104, 132, 88)


@dataclass(frozen=True)
class Tones:
    """The tones of one colour.

    Args:
        base: the colour itself; most of a thing is in this tone.
        light: where the light falls.
        dark: in the shade.
        outline: the thin line around a thing and its parts.
        trim: spots, ribbons and stripes: white, or pale grey on a white thing.
    """

    base: Rgb
    light: Rgb
    dark: Rgb
    outline: Rgb
    trim: Rgb


@cache
def tones_of(colour: str) -> Tones:
    """The tones of a colour by its name in `COLOURS`."""
    base = next(c.rgb for c in COLOURS if c.name == colour)
    if colour == "white":
        return Tones(base, WHITE, (214, 218, 227), (104, 110, 128), (176, 184, 200))
    # Warm colours are shaded with their own warm neighbours: mixed with ink they would turn olive and brown.
    warm: dict[str, Rgb] = {"yellow": (234, 188, 46), "orange": (214, 106, 20), "pink": (206, 84, 130)}
    shade = warm.get(colour, mix(base, (24, 16, 60), 0.28))
    return Tones(base, mix(base, WHITE, 0.42), mix(base, shade, 0.72), mix(shade, (30, 18, 40), 0.5), (250, 247, 240))
