"""How stock captioners cut pictures into tiles, and how many image tokens a picture then has (AnyRes).

A picture is resized to the best of some resolutions (`image_grid_pinpoints`), padded and cut into tiles of the size
that the encoder takes; the whole picture, squeezed into that size, is one more tile. The features of the tiles are laid
side by side again, the padding is cut off, and an embedding that is trained (`image_newline`) ends every row of patches
(Liu et al. 2024, "LLaVA-NeXT"; Li et al. 2024, arXiv:2408.03326). Here is only what can be said without features: how
many tiles and tokens there are. The rest is done by the stock model, `pack_image_features`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from imagecap.errors import ImageCapError
from imagecap.model.tiles.tiled import PictureSize, Tiled


class Tiling(ABC):
    """The tiles of a stock captioner.

    Args:
        llava: the stock model.
        num_patches: features of one tile.

    Attributes:
        model_type: of the stock configurations of this kind.
        default_feature_layer: the `vision_feature_layer` of a configuration that gives none.
        side: pixels of a side of a tile.
        pinpoints: height and width of the resolutions that pictures are resized to.

    Raises:
        ImageCapError: the features of a tile are not those of its patches alone.
    """

    model_type: str
    default_feature_layer: int

    def __init__(self, llava: Any, num_patches: int) -> None:
        vision = llava.config.vision_config
        self._model = llava.model
        self.side: int = vision.image_size
        self._patches: int = self.side // vision.patch_size  # on a side
        self.pinpoints: list[list[int]] = [list(map(int, each)) for each in llava.config.image_grid_pinpoints]
        if num_patches != self._patches**2:
            raise ImageCapError(
                f"tiles have {num_patches} features of {self._patches} x {self._patches} patches with this vision "
                "encoder: tiles need an encoder without registers, and one with a class token needs the "
                'vision_feature_select_strategy "default"'
            )

    @abstractmethod
    def _pack(self, features: Sequence[Tensor], sizes: Sequence[PictureSize], newline: Tensor) -> Sequence[Tensor]:
        """Call the stock `pack_image_features`."""

    def _fitted(self, rows: int, columns: int) -> tuple[int, int]:
        """Rows and columns of patches in the language model; OneVision reduces them where there are too many."""
        return rows, columns

    def pack(self, features: Tiled) -> list[Tensor]:
        """The image tokens of each picture, `[tokens, hidden]`, with those that end rows.

        Args:
            features: projected features of the tiles, `[tiles, patches, hidden]`.
        """
        return list(self._pack(list(features), features.sizes, self._model.image_newline))

    def num_tokens(self, size: PictureSize) -> int:
        """Number of image tokens of a picture of this height and width."""
        height, width = self._best(size)
        rows, columns = (self._patches * (each // self.side) for each in (height, width))
        # The padding as the stock `unpad_image` finds it.
        if size[1] / size[0] > columns / rows:
            rows -= (rows - int(round(size[0] * (columns / size[1]), 7))) // 2 * 2
        else:
            columns -= (columns - int(round(size[1] * (rows / size[0]), 7))) // 2 * 2
        return self._tokens(rows, columns)

    def num_tiles(self, size: PictureSize) -> int:
        """Number of tiles of a picture of this height and width, that of the whole picture included."""
        height, width = self._best(size)
        return math.ceil(height / self.side) * math.ceil(width / self.side) + 1

    @cached_property
    def most_tokens(self) -> int:
        """The largest number of image tokens that a picture of any shape may have."""
        found = []
        for height, width in self.pinpoints:
            rows, columns = self._patches * (height // self.side), self._patches * (width // self.side)
            found += [self._tokens(each, columns) for each in range(1, rows + 1)]
            found += [self._tokens(rows, each) for each in range(1, columns + 1)]
        return max(found)

    @cached_property
    def largest(self) -> PictureSize:
        """A height and width with many image tokens: the resolution that has the most of them."""
        sizes = [(height, width) for height, width in self.pinpoints]
        return max(sizes, key=self.num_tokens)

    def blank(self, count: int) -> Tiled:
        """Pixel values of so many black pictures of the `largest` size."""
        tiles = self.num_tiles(self.largest)
        values = torch.zeros(count * tiles, 3, self.side, self.side)
        return Tiled(values, (tiles,) * count, (self.largest,) * count)

    def _best(self, size: PictureSize) -> tuple[int, int]:
        from transformers.image_processing_utils import select_best_resolution

        height, width = select_best_resolution(size, self.pinpoints)
        return int(height), int(width)

    def _tokens(self, rows: int, columns: int) -> int:
        """The patches of the whole picture, those of the tiles, and an end for every row of the latter."""
        rows, columns = self._fitted(rows, columns)
        return self._patches**2 + rows * (columns + 1)


class LlavaNextTiling(Tiling):
    """LLaVA-NeXT, also known as LLaVA-1.6."""

    model_type = "llava_next"
    default_feature_layer = -2

    def __init__(self, llava: Any, num_patches: int) -> None:
        super().__init__(llava, num_patches)
        self._strategy = llava.config.vision_feature_select_strategy

    def _pack(self, features: Sequence[Tensor], sizes: Sequence[PictureSize], newline: Tensor) -> Sequence[Tensor]:
        packed, _ = self._model.pack_image_features(
            features, sizes, vision_feature_select_strategy=self._strategy, image_newline=newline
        )
        return list(packed)


class LlavaOnevisionTiling(Tiling):
    """LLaVA-OneVision, which interpolates the features of pictures with more than so many tiles (`anyres_max_9`)."""

    model_type = "llava_onevision"
    default_feature_layer = -1

    def __init__(self, llava: Any, num_patches: int) -> None:
        super().__init__(llava, num_patches)
        self._aspect_ratio: str = llava.config.vision_aspect_ratio

    def _pack(self, features: Sequence[Tensor], sizes: Sequence[PictureSize], newline: Tensor) -> Sequence[Tensor]:
        packed, _ = self._model.pack_image_features(
            features, sizes, image_newline=newline, vision_aspect_ratio=self._aspect_ratio
        )
        return list(packed)

    def _fitted(self, rows: int, columns: int) -> tuple[int, int]:
        limit = int(self._aspect_ratio.removeprefix("anyres_max_")) * self._patches**2
        ratio = math.sqrt(rows * columns / limit)
        return (int(rows // ratio), int(columns // ratio)) if ratio > 1.1 else (rows, columns)


TILINGS: dict[str, type[Tiling]] = {kind.model_type: kind for kind in (LlavaNextTiling, LlavaOnevisionTiling)}


def tiling_of(llava: Any, num_patches: int) -> Tiling | None:
    """The tiles of a stock model; None if it does not cut pictures.

    Raises:
        ImageCapError: see `Tiling`.
    """
    kind = TILINGS.get(llava.config.model_type)
    return None if kind is None else kind(llava, num_patches)


def grids(tiles: int, side: int) -> list[list[int]]:
    """Height and width of all grids of at most so many tiles, in pixels, as `image_grid_pinpoints`.

    Args:
        tiles: largest number of tiles, without that of the whole picture.
        side: pixels of a side of a tile.
    """
    shapes = [(rows, columns) for rows in range(1, tiles + 1) for columns in range(1, tiles // rows + 1)]
    return [[rows * side, columns * side] for rows, columns in shapes]


def new_image_newline(hidden: int, seed: int) -> nn.Parameter:
    """The embedding that ends rows of patches, with the initial values of the stock model, which depend on `seed`."""
    generator = torch.Generator().manual_seed(seed)
    return nn.Parameter(torch.randn(hidden, generator=generator) / math.sqrt(hidden))
