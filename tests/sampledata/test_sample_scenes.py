import random

import numpy as np
import pytest

from imagecap.eval.scenes.scene_string import scene_string
from imagecap.eval.scenes.world import HELD_OUT_PAIRS
from sampledata.make_sample import PARTS, scenes
from sampledata.pretraining.listing import WORDS, blurred_weights, clean_weights
from sampledata.pretraining.scenes import GRID, HELD_OUT, SEEN, TRAINING, scene
from sampledata.scenes.layout import sample_scene


def test_the_sample_has_the_promised_parts_and_no_scene_twice() -> None:
    made = scenes()
    for split, composition, total in PARTS:
        part = [one for one in made if one[:2] == (split, composition)]
        assert len(part) == total
        for _, _, one in part:
            held_out = any((group.colour, group.kind) in HELD_OUT_PAIRS for group in one.groups)
            assert held_out == (composition == "held-out")
    assert len({scene_string(one) for _, _, one in made}) == len(made)
    assert made == scenes()


def test_pretraining_never_meets_a_held_out_pair() -> None:
    for series, expected in ((TRAINING, False), (SEEN, False), (HELD_OUT, True)):
        for number in range(200):
            groups = scene(series, number).groups
            assert any((group.colour, group.kind) in HELD_OUT_PAIRS for group in groups) == expected


def test_a_clean_listing_names_each_thing_once_in_its_cell() -> None:
    rng = random.Random(0)
    made = [sample_scene(rng) for _ in range(200)]
    weights = clean_weights(made)
    for one, cells in zip(made, weights, strict=True):
        assert cells[:, WORDS.index("a")].sum() == pytest.approx(len(one.things), abs=0.01)
        for thing in one.things:
            cell = int(thing.y * GRID) * GRID + int(thing.x * GRID)
            if all(0.01 < position * GRID % 1 < 0.99 for position in (thing.x, thing.y)):
                assert cells[cell, WORDS.index(thing.kind)] == pytest.approx(1, abs=0.01)
                assert cells[cell, WORDS.index(thing.colour)] == pytest.approx(1, abs=0.01)


def test_a_blurred_listing_is_reproducible_and_keeps_the_count() -> None:
    rng = random.Random(1)
    made = [sample_scene(rng) for _ in range(50)]
    weights = blurred_weights(made, np.random.default_rng(0))
    assert np.array_equal(weights, blurred_weights(made, np.random.default_rng(0)))
    counted = weights[:, :, WORDS.index("a")].sum(1)
    assert np.abs(counted - [len(one.things) for one in made]).max() < 1.5
