"""Pictures and captions seen a little differently in every epoch, so that few of them teach more."""

import math

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from imagecap.config import TrainSettings

_LARGEST_STRETCH = 4 / 3  # of a crop against its picture, as Szegedy et al. 2015 (arXiv:1409.4842) have it


def augments(settings: TrainSettings) -> bool:
    """Whether pictures change from epoch to epoch, so that their features cannot be kept."""
    return settings.augment_crop < 1 or settings.augment_colour > 0 or settings.augment_flip


def augmented(image: Image.Image, settings: TrainSettings, rng: np.random.Generator) -> Image.Image:
    """A random view of a picture: cropped, recoloured, mirrored, as far as the settings say.

    Args:
        image: RGB, of any size; so is the result.
        rng: decides everything.
    """
    if settings.augment_crop < 1:
        image = image.crop(_box(image.size, settings.augment_crop, rng))
    if settings.augment_colour > 0:
        for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = enhancer(image).enhance(1 + settings.augment_colour * rng.uniform(-1, 1))
    if settings.augment_flip and rng.random() < 0.5:
        image = ImageOps.mirror(image)
    return image


def hidden_tokens(captions: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Which tokens to hide, of those that captions feed: `[pictures, tokens]`, as `PackedRows.captions`.

    What is not known from the words before must be seen in the picture (Bowman et al. 2016, arXiv:1511.06349).
    """
    return torch.from_numpy(rng.random(captions.shape) < share) & (captions >= 0)


def _box(size: tuple[int, int], smallest: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a crop of at least `smallest` of the area (less what the border cuts off)."""
    width, height = size
    area = rng.uniform(smallest, 1)
    stretch = math.exp(rng.uniform(-1, 1) * math.log(_LARGEST_STRETCH) / 2)
    wide = max(1, min(width, round(width * math.sqrt(area) * stretch)))
    high = max(1, min(height, round(height * math.sqrt(area) / stretch)))
    left, top = int(rng.integers(width - wide + 1)), int(rng.integers(height - high + 1))
    return left, top, left + wide, top + high
