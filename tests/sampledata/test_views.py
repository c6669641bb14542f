import numpy as np
import torch

from sampledata.pretraining.views import apply_views


def test_the_picture_moves_as_the_truth_does() -> None:
    """A bright dot at a thing's place is still there after a random view, mirrored or not."""
    side, rng = 126, np.random.default_rng(0)
    for view in ((0.1, 0.05, 0.85, 0.9), (0.1, 0.05, -0.85, 0.9), (0.0, 0.0, -1.0, 1.0)):
        picture = torch.zeros(1, 3, side, side)
        picture[:, :, 54:57, 36:39] = 100.0
        seen = apply_views(picture, np.array([view]), rng)[0, 0]
        row, column = divmod(int(seen.argmax()), side)
        x, y = (37.5 / side - view[0]) / abs(view[2]), (55.5 / side - view[1]) / view[3]
        expected = (1 - x if view[2] < 0 else x, y)
        assert abs((column + 0.5) / side - expected[0]) < 0.015
        assert abs((row + 0.5) / side - expected[1]) < 0.015
