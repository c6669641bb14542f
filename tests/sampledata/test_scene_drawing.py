"""What the drawn sample scenes promise: right colours, separate silhouettes, the same pixels every time."""

import random
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageChops

from imagecap.eval.scenes.world import COLOURS, KINDS, PLACES, Scene, Thing
from sampledata.scenes.draw import PAINTERS, draw_scene, draw_thing
from sampledata.scenes.pen import Pen
from sampledata.scenes.tones import tones_of


def scene(*things: Thing, place: str = "meadow", night: bool = False, seed: int = 7) -> Scene:
    return Scene(groups=(), relation=None, place=place, night=night, things=things, seed=seed)


def colour_names(pixels: np.ndarray) -> Counter[str]:
    """Counts the pixels `[pixels, 3]` that have nearly one of the colours, by its name."""
    tones = np.array([colour.rgb for colour in COLOURS], dtype=float)
    distances = np.linalg.norm(pixels[:, None].astype(float) - tones, axis=2)
    nearest = distances.argmin(axis=1)[distances.min(axis=1) < 60]
    return Counter(COLOURS[index].name for index in nearest)


def silhouette(kind: str) -> np.ndarray:
    return np.asarray(draw_thing(kind, "red", 60).getchannel("A").reduce(3)) > 127


@pytest.mark.parametrize("place", [place.name for place in PLACES])
@pytest.mark.parametrize("night", [False, True])
def test_same_scene_gives_same_pixels(place: str, night: bool) -> None:
    one = scene(Thing("cat", "red", 0.4, 0.7, 0.3, False), place=place, night=night)
    before = random.getstate()
    picture = draw_scene(one, 64)
    assert random.getstate() == before
    assert picture.mode == "RGB"
    assert picture.size == (64, 64)
    assert picture.tobytes() == draw_scene(one, 64).tobytes()
    other = scene(*one.things, place=place, night=night, seed=8)
    assert picture.tobytes() != draw_scene(other, 64).tobytes()


@pytest.mark.parametrize("night", [False, True])
@pytest.mark.parametrize("kind", [kind.name for kind in KINDS])
def test_thing_fills_its_box_in_its_colour(kind: str, night: bool) -> None:
    for colour in COLOURS:
        image = draw_thing(kind, colour.name, 128, night)
        box = image.getbbox()
        assert box is not None
        assert max(box[2] - box[0], box[3] - box[1]) > 0.9 * 128
        pixels = np.asarray(image)
        pixels = pixels[pixels[..., 3] > 0][:, :3]
        assert len(pixels) > 0.2 * 128 * 128
        names = colour_names(pixels)
        assert names.most_common(1)[0][0] == colour.name, names
        # Windows, wheels, ribbons and the outline are not counted, and the night dims all of it.
        assert names[colour.name] > (0.2 if night else 0.35) * len(pixels), names[colour.name] / len(pixels)


def test_nothing_sticks_out_of_the_unit_box() -> None:
    assert set(PAINTERS) == {kind.name for kind in KINDS}
    for kind, paint in PAINTERS.items():
        image = Image.new("RGBA", (150, 150))
        paint(Pen(image, 100, 25), tones_of("red"))
        box = image.getbbox()
        assert box is not None
        assert min(box[:2]) >= 24, kind
        assert max(box[2:]) <= 127, kind


def test_ground_thing_stands_on_the_bottom_of_its_box() -> None:
    for kind in KINDS:
        box = draw_thing(kind.name, "red", 96).getbbox()
        assert box is not None
        if kind.home == "ground":
            assert box[3] >= 0.96 * 96, kind.name


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_scene_differs_from_its_place_only_at_the_box(kind) -> None:
    thing = Thing(kind.name, "purple", 0.5, 0.5, 0.25, False)
    changed = ImageChops.difference(draw_scene(scene(thing), 128), draw_scene(scene(), 128)).getbbox()
    assert changed is not None
    left, top, right, bottom = changed
    if kind.home == "air":
        assert (left, top) >= (48, 48)
        assert (right, bottom) <= (80, 80)
    else:  # with its shadow
        assert left >= 44
        assert top >= 48
        assert right <= 84
        assert bottom <= 84


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS])
def test_flip_mirrors(kind: str) -> None:
    crops = [
        np.asarray(draw_scene(scene(Thing(kind, "blue", 0.5, 0.5, 0.25, flip)), 256).crop((96, 96, 160, 160)))
        for flip in (False, True)
    ]
    mirrored = crops[1][:, ::-1]
    inside = np.asarray(draw_thing(kind, "blue", 128).getchannel("A").reduce(2)) == 255
    assert np.array_equal(crops[0][inside], mirrored[inside])
    if kind not in {"butterfly", "flower", "house"}:  # nearly the same on both sides
        assert np.abs(crops[0].astype(int) - crops[1]).max() > 40


def test_silhouettes_differ_pairwise() -> None:
    shapes = {kind.name: silhouette(kind.name) for kind in KINDS}
    for (first, a), (second, b) in combinations(shapes.items(), 2):
        overlap = max((a & b).sum() / (a | b).sum(), (a & b[:, ::-1]).sum() / (a | b[:, ::-1]).sum())
        assert overlap < 0.88, (first, second, overlap)


def test_nearer_thing_covers_further_one() -> None:
    near = Thing("ball", "red", 0.5, 0.75, 0.3, False)
    far = Thing("ball", "blue", 0.5, 0.65, 0.3, False)
    assert draw_scene(scene(near, far), 64).tobytes() == draw_scene(scene(far, near), 64).tobytes()
    names = colour_names(np.asarray(draw_scene(scene(near, far), 64).crop((28, 44, 44, 56))).reshape(-1, 3))
    assert names["blue"] < 0.1 * names["red"]


def test_nights_are_darker_and_places_differ() -> None:
    days = {place.name: np.asarray(draw_scene(scene(place=place.name), 64), dtype=float) for place in PLACES}
    for name, day in days.items():
        night = np.asarray(draw_scene(scene(place=name, night=True), 64), dtype=float)
        assert night.mean() < 0.65 * day.mean(), name
    for first, second in combinations(days, 2):
        ground = np.abs(days[first][40:].mean(axis=(0, 1)) - days[second][40:].mean(axis=(0, 1))).max()
        assert ground > 8, (first, second, ground)


def test_large_and_small_pictures_show_the_same() -> None:
    one = scene(
        Thing("boat", "orange", 0.4, 0.7, 0.3, True), Thing("kite", "pink", 0.7, 0.3, 0.25, False), place="beach"
    )
    large = draw_scene(one, 256).resize((64, 64), Image.Resampling.BOX)
    small = draw_scene(one, 128).resize((64, 64), Image.Resampling.BOX)
    assert np.abs(np.asarray(large, dtype=int) - np.asarray(small)).mean() < 4
