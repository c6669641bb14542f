import random

import numpy as np
import torch

from imagecap.eval.scenes.world import COLOURS, KINDS, PLACES
from sampledata.pretraining.listing import WORDS, clean_weights
from sampledata.pretraining.patch_truth import Truth, listing_of, without_colours
from sampledata.pretraining.scenes import GRID
from sampledata.scenes.layout import sample_scene

MADE = [sample_scene(random.Random(number)) for number in range(60)]


def test_every_thing_is_a_centre_with_its_kind_and_colour() -> None:
    truth = Truth(MADE).of(np.arange(len(MADE)))
    for number, one in enumerate(MADE):
        assert truth["centre"][number].sum() == len(one.things)
        for thing in one.things:
            cell = int(thing.y * GRID) * GRID + int(thing.x * GRID)
            assert KINDS[int(truth["kind"][number, cell])].name == thing.kind
            assert COLOURS[int(truth["colour"][number, cell])].name == thing.colour


def test_a_mirrored_view_mirrors_the_truth() -> None:
    numbers = np.arange(len(MADE))
    plain = Truth(MADE).of(numbers)["centre"].reshape(-1, GRID, GRID)
    mirrored = Truth(MADE).of(numbers, np.tile([0.0, 0.0, -1.0, 1.0], (len(MADE), 1)))["centre"]
    assert torch.equal(mirrored.reshape(-1, GRID, GRID), plain.flip(-1))


def test_patches_are_taught_to_spell_what_the_language_model_is_shown() -> None:
    wanted, counts = listing_of(Truth(MADE).of(np.arange(len(MADE))))
    shown = torch.from_numpy(clean_weights(MADE))
    sharp = (wanted[..., 0] < 0.001) | (wanted[..., 0] > 0.999)
    assert counts.min() == 1
    assert 0.8 < sharp.float().mean() < 1
    assert torch.allclose(wanted[..., 0].sum(1), torch.tensor([float(len(one.things)) for one in MADE]), atol=0.01)
    left = WORDS.index("left")
    shown[..., left] = wanted[..., left]  # patches without a thing may know where they are, too
    assert torch.allclose(wanted[sharp], shown[sharp], atol=0.002)
    assert (wanted.reshape(-1, GRID, GRID, len(WORDS))[:, :, 0, left] > 0.99).all()


def test_recoloured_pictures_say_nothing_of_colours() -> None:
    truth = without_colours(Truth(MADE).of(np.arange(len(MADE))), np.arange(len(MADE)) % 2 == 0)
    _, counts = listing_of(truth)
    silent = {WORDS[number] for number in torch.nonzero(counts[0, 0] == 0).flatten().tolist()}
    assert silent == {"day", "night", *(p.name for p in PLACES), *(c.name for c in COLOURS)}
    assert counts[1].min() == 1
    assert (truth["colour"][0] == -1).all()
