"""The captions behind floors and ceilings."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from imagecap.data.images import load_image
from imagecap.eval.floors import best_constant, human_rounds, shuffled_order
from imagecap.eval.neighbours import nearest, picture_features


def test_shuffling_moves_every_caption() -> None:
    for size in (2, 3, 50):
        order = shuffled_order(size, 0)
        assert sorted(order) == list(range(size))
        assert all(place != index for place, index in enumerate(order))


def test_best_constant_is_the_most_typical_caption() -> None:
    training = {str(i): [f"a dog runs over field number {i}", f"word{i} other{i} things{i}"] for i in range(8)}
    training["x"] = ["a dog runs over the field"]
    assert "dog runs over" in best_constant(training, "en")


def test_human_rounds_leave_the_candidate_out() -> None:
    rounds = list(human_rounds([["one", "two"], ["three"]]))
    assert [list(said) for _, said in rounds] == [["one"], ["two"]]
    assert [list(others) for others, _ in rounds] == [[["two"]], [["one"]]]
    assert not list(human_rounds([["three"]]))


def test_nearest_neighbour_by_the_models_features(tmp_path: Path) -> None:
    colours = ["red", "lime", "blue"]
    for colour in colours:
        Image.new("RGB", (4, 4), colour).save(tmp_path / f"{colour}.png")
    model: Any = SimpleNamespace(
        pixel_values=lambda images: torch.stack([torch.tensor(np.array(image)) for image in images]),
        encode_images=lambda pixels: pixels.float().flatten(1, 2) + 1,
        open_picture=load_image,
    )
    paths = [tmp_path / f"{colour}.png" for colour in colours]
    features = picture_features(model, paths, 10_000, batch_size=2)
    assert features.shape == (3, 3)
    assert nearest(features[[2, 0]], features) == [2, 0]
