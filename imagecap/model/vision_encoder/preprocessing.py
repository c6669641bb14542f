"""Image preprocessing that is bit for bit that of the stock image processor, in fewer passes.

The stock processor converts a picture to an array, back to a picture to resize it, and to an array again, and then
rescales and normalises every pixel in float64 and float32. Here the picture is resized as it is, and rescaling and
normalising are one look-up in a table of the 256 values of a byte.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

# The steps that are reproduced here. A processor with any other step is called itself.
_STEPS = {"do_resize", "do_center_crop", "do_pad", "do_rescale", "do_normalize", "do_convert_rgb"}


class Preprocessing:
    """Callable that turns RGB pictures into pixel values `[pictures, 3, height, width]`, float32.

    The stock processor itself is called where its result on a few test pictures differs, and for pictures that are not
    RGB or are smaller than what is cut out of them.

    Args:
        processor: transformers' image processor, with the PIL backend.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._table: NDArray[np.float32] | None = None
        steps = {name for name, value in vars(processor).items() if name.startswith("do_") and value}
        if {"do_resize", "do_rescale", "do_normalize"} <= steps <= _STEPS:
            self._table = _table(processor)
            random = np.random.default_rng(0)
            for height, width in ((37, 61), (300, 211), (500, 500)):
                picture = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
                if not torch.equal(self([picture]), self._stock([picture])):
                    self._table = None
                    break

    def __call__(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Preprocess RGB pictures."""
        sides = self._sides(*pictures[0].size) if pictures else None
        if sides is None:
            return self._stock(pictures)
        _, (width, height) = sides
        pixels = np.empty((len(pictures), 3, height, width), np.float32)
        if all(map(self._fill, pixels, pictures)):
            return torch.from_numpy(pixels)
        return self._stock(pictures)

    def one_by_one(self, pictures: Iterable[Image.Image], count: int) -> Tensor:
        """Preprocess RGB pictures that come one after the other, so that only one is in memory as a picture.

        Args:
            pictures: at least one.
            count: how many they are.
        """
        pixels: Tensor | None = None
        for number, picture in enumerate(pictures):
            if pixels is None:
                first = self([picture])[0]
                pixels = first.new_empty(count, *first.shape)
                pixels[0] = first
            elif not self._fill(pixels[number].numpy(), picture):
                pixels[number] = self._stock([picture])[0]
        assert pixels is not None
        return pixels

    def visible_region(self, width: int, height: int) -> tuple[float, float, float, float] | None:
        """The part of a picture that the pixel values show, the rest being cropped: left, top, width and height.

        All four are shares of the width or the height of the picture; a picture that is padded to a square has a
        region that goes beyond it. None if the stock processor does it in its own way.
        """
        sides = self._sides(width, height)
        if sides is None:
            return None
        (wide, high), (crop_wide, crop_high) = sides
        left, top = (wide - crop_wide) // 2, (high - crop_high) // 2
        whole_wide, whole_high = (max(width, height),) * 2 if self._pads else (width, height)
        return (
            (left / wide * whole_wide - (whole_wide - width) // 2) / width,
            (top / high * whole_high - (whole_high - height) // 2) / height,
            crop_wide / wide * whole_wide / width,
            crop_high / high * whole_high / height,
        )

    @property
    def _pads(self) -> bool:
        """Whether pictures are padded to squares first."""
        return bool(getattr(self._processor, "do_pad", False))

    def _sides(self, picture_width: int, picture_height: int) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """Width and height after resizing, and after cropping; None if the stock processor does it in its own way."""
        size = self._processor.size
        if self._pads:
            picture_width = picture_height = max(picture_width, picture_height)
        if size.shortest_edge and not size.longest_edge:
            short = min(picture_width, picture_height)
            height, width = (
                size.shortest_edge if side == short else int(size.shortest_edge * side / short)
                for side in (picture_height, picture_width)
            )
        elif size.height and size.width:
            height, width = size.height, size.width
        else:
            return None
        if not self._processor.do_center_crop:
            return (width, height), (width, height)
        crop_height, crop_width = self._processor.crop_size.height, self._processor.crop_size.width
        if crop_height > height or crop_width > width:  # the stock processor pads
            return None
        return (width, height), (crop_width, crop_height)

    def _stock(self, pictures: Sequence[Image.Image]) -> Tensor:
        pixels = self._processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        assert isinstance(pixels, Tensor)
        return pixels

    def _fill(self, values: NDArray[np.float32], picture: Image.Image) -> bool:
        """Resize, crop and normalise one picture; False where only the stock processor can.

        Args:
            values: receives the pixel values, `[3, height, width]`.
            picture: a picture.
        """
        table, sides = self._table, self._sides(*picture.size)
        if table is None or picture.mode != "RGB" or sides is None:
            return False
        (width, height), (crop_width, crop_height) = sides
        if values.shape != (3, crop_height, crop_width):
            return False
        if self._pads:
            picture = _padded(picture, self._processor.image_mean)
        top, left = (height - crop_height) // 2, (width - crop_width) // 2
        resized = np.asarray(picture.resize((width, height), resample=self._processor.resample))
        pixels = resized[top : top + crop_height, left : left + crop_width]
        for channel in range(3):
            np.take(table[channel], pixels[..., channel], out=values[channel], mode="clip")
        return True


def _padded(picture: Image.Image, mean: Sequence[float]) -> Image.Image:
    """A picture in the middle of a square of the mean colour, as LLaVA's processor pads it."""
    side = max(picture.size)
    square = Image.new("RGB", (side, side), tuple(int(value * 255) for value in mean))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def _table(processor: Any) -> NDArray[np.float32]:
    """The normalised value of each byte in each channel, `[3, 256]`, with the stock processor's roundings."""
    rescaled = (np.arange(256).astype(np.float64) * processor.rescale_factor).astype(np.float32)
    mean, std = (
        np.broadcast_to(np.array(values, dtype=np.float32), 3)[:, None]
        for values in (processor.image_mean, processor.image_std)
    )
    return (rescaled - mean) / std
