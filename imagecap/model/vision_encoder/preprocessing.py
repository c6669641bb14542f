"""Pictures into pixel values, bit for bit as the stock image processor makes them, in fewer passes.

The stock processor turns a picture into an array, back into a picture to resize it, and into an array again, and then
rescales and normalises in float64 and float32. Here it is resized as it is, and since a byte has 256 values, a table
says what becomes of each.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

# What a processor may be told to do; one that is told more is called itself.
_STEPS = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"}


class Preprocessing:
    """Callable: RGB pictures into pixel values `[pictures, 3, height, width]`, float32.

    A processor that does something else than this on a few pictures is called itself.

    Args:
        processor: transformers' image processor, with the PIL backend.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._table: NDArray[np.float32] | None = None
        told = {name for name, value in vars(processor).items() if name.startswith("do_") and value}
        if {"do_resize", "do_rescale", "do_normalize"} <= told <= _STEPS:
            self._table = _table(processor)
            random = np.random.default_rng(0)
            for height, width in ((37, 61), (300, 211), (500, 500)):
                picture = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
                if not torch.equal(self([picture]), self._stock([picture])):
                    self._table = None
                    break

    def __call__(self, pictures: Sequence[Image.Image]) -> Tensor:
        """See the class."""
        found = [self._one(picture) for picture in pictures]
        if any(each is None for each in found):
            return self._stock(pictures)
        return torch.from_numpy(np.stack([each for each in found if each is not None]))

    def _stock(self, pictures: Sequence[Image.Image]) -> Tensor:
        pixels = self._processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        assert isinstance(pixels, Tensor)
        return pixels

    def _one(self, picture: Image.Image) -> NDArray[np.float32] | None:
        size, table = self._processor.size, self._table
        if table is None or picture.mode != "RGB":
            return None
        if size.shortest_edge and not size.longest_edge:
            short = min(picture.size)
            height, width = (
                size.shortest_edge if side == short else int(size.shortest_edge * side / short)
                for side in (picture.height, picture.width)
            )
        elif size.height and size.width:
            height, width = size.height, size.width
        else:
            return None
        crop_height, crop_width = height, width
        if self._processor.do_center_crop:
            crop_height, crop_width = self._processor.crop_size.height, self._processor.crop_size.width
            if crop_height > height or crop_width > width:  # it would be padded
                return None
        top, left = (height - crop_height) // 2, (width - crop_width) // 2
        resized = np.asarray(picture.resize((width, height), resample=self._processor.resample))
        pixels = resized[top : top + crop_height, left : left + crop_width]
        found = np.empty((3, crop_height, crop_width), dtype=np.float32)
        for channel in range(3):
            np.take(table[channel], pixels[..., channel], out=found[channel], mode="clip")
        return found


def _table(processor: Any) -> NDArray[np.float32]:
    """What becomes of each byte in each channel, `[3, 256]`, rounded as the stock processor rounds."""
    rescaled = (np.arange(256).astype(np.float64) * processor.rescale_factor).astype(np.float32)
    mean, std = (
        np.broadcast_to(np.array(values, dtype=np.float32), 3)[:, None]
        for values in (processor.image_mean, processor.image_std)
    )
    return (rescaled - mean) / std
