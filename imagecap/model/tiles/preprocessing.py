"""Cutting pictures into tiles by the stock image processor."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from imagecap.model.tiles.tiled import Tiled, together


class TilePreprocessing:
    """Callable that turns RGB pictures into pixel values of tiles, float32; has the methods of `Preprocessing`.

    Args:
        processor: transformers' image processor, with the PIL backend.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __call__(self, pictures: Sequence[Image.Image]) -> Tiled:
        """Preprocess RGB pictures."""
        return self.one_by_one(pictures, len(pictures))

    def one_by_one(self, pictures: Iterable[Image.Image], count: int) -> Tiled:
        """Preprocess RGB pictures that come one after the other; see `Preprocessing.one_by_one`."""
        found = together([self._tiles(picture) for picture in pictures])
        assert isinstance(found, Tiled)
        assert len(found) == count
        return found

    def visible_region(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part of a picture that is seen: all of it. See `Preprocessing.visible_region`."""
        return 0.0, 0.0, 1.0, 1.0

    def _tiles(self, picture: Image.Image) -> Tiled:
        """The tiles of one picture. Alone it is not padded to the number of tiles of others."""
        (values,) = self._processor(images=[picture])["pixel_values"]
        return Tiled(torch.from_numpy(np.asarray(values)), (len(values),), ((picture.height, picture.width),))
