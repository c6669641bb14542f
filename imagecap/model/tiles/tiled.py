"""Tensors of pictures that are cut into tiles, of which different pictures have different numbers.

Pictures without tiles are a tensor with one picture per row. Code that only passes pictures on, chooses some of them or
moves them to a device takes either form (`Pixels`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TypeAlias

import torch
from torch import Tensor

PictureSize: TypeAlias = tuple[int, int]  # height and width


@dataclass(frozen=True)
class Tiled:
    """Pixel values or features of the tiles of several pictures.

    Attributes:
        values: of all tiles, picture by picture, `[tiles, ...]`. The first tile of a picture is the whole of it.
        counts: number of tiles of each picture.
        sizes: of the pictures before they were resized.
    """

    values: Tensor
    counts: tuple[int, ...]
    sizes: tuple[PictureSize, ...]

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.counts)

    def __iter__(self) -> Iterator[Tensor]:
        """The tiles of each picture, `[tiles, ...]`."""
        return iter(self.values.split(list(self.counts)))

    def __getitem__(self, chosen: int | Sequence[int]) -> "Tiled":
        """Some of the pictures."""
        rows = [chosen] if isinstance(chosen, int) else chosen
        tiles = list(self)
        return Tiled(
            torch.cat([tiles[row] for row in rows]),
            tuple(self.counts[row] for row in rows),
            tuple(self.sizes[row] for row in rows),
        )

    @property
    def device(self) -> torch.device:
        """The device of the values."""
        return self.values.device

    @property
    def whole(self) -> Tensor:
        """The first tile of each picture, `[pictures, ...]`."""
        return self.values[[0, *accumulate(self.counts[:-1])]]

    def to(
        self, device: torch.device | str, dtype: torch.dtype | None = None, *, non_blocking: bool = False
    ) -> "Tiled":
        """A copy on a device and in a dtype."""
        return replace(self, values=self.values.to(device, dtype or self.values.dtype, non_blocking=non_blocking))

    def pin_memory(self) -> "Tiled":
        """A copy in pinned memory, from which a GPU copies asynchronously."""
        return replace(self, values=self.values.pin_memory())


Pixels: TypeAlias = Tensor | Tiled
"""Pixel values `[pictures, 3, height, width]` or those of tiles; also the features that are computed from them."""


def applied(function: Callable[[Tensor], Tensor], pixels: Pixels) -> Pixels:
    """The result of a function of pictures; where they have tiles, each tile is a picture to the function."""
    return replace(pixels, values=function(pixels.values)) if isinstance(pixels, Tiled) else function(pixels)


def together(pictures: Sequence[Pixels]) -> Pixels:
    """Join single pictures: tensors `[3, height, width]`, or `Tiled` with one picture or several each."""
    tiled = [picture for picture in pictures if isinstance(picture, Tiled)]
    if not tiled:
        return torch.stack([picture for picture in pictures if isinstance(picture, Tensor)])
    counts = tuple(count for picture in tiled for count in picture.counts)
    sizes = tuple(size for picture in tiled for size in picture.sizes)
    return Tiled(torch.cat([picture.values for picture in tiled]), counts, sizes)


def whole_pictures(pixels: Pixels) -> Tensor:
    """One row per picture, `[pictures, ...]`: of a picture with tiles the one that is the whole of it."""
    return pixels.whole if isinstance(pixels, Tiled) else pixels
