"""Data augmentation: random crops, colours and mirroring of pictures, and dropout of caption tokens."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from imagecap.config import TrainSettings

_MAX_ASPECT_RATIO = 4 / 3  # of a crop relative to its picture, as in Inception (Szegedy et al. 2015, arXiv:1409.4842)


def uses_augmentation(settings: TrainSettings) -> bool:
    """Whether pictures are augmented, so that their features differ between epochs and cannot be cached."""
    return settings.augment_crop < 1 or settings.augment_colour > 0 or settings.augment_flip


def augment(image: Image.Image, settings: TrainSettings, rng: np.random.Generator) -> Image.Image:
    """A random view of a picture: a crop (`augment_crop`), other colours (`augment_colour`), mirrored (`augment_flip`).

    Args:
        image: RGB, of any size.
        settings: which augmentations are used, and how strong they are.
        rng: the source of all randomness.

    Returns:
        An RGB picture, smaller than `image` if it was cropped.
    """
    if settings.augment_crop < 1:
        image = image.crop(_box(image.size, settings.augment_crop, rng))
    if settings.augment_colour > 0:
        for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = enhancer(image).enhance(1 + settings.augment_colour * rng.uniform(-1, 1))
    if settings.augment_flip and rng.random() < 0.5:
        image = ImageOps.mirror(image)
    return image


def token_dropout_mask(captions: Tensor, share: float, rngs: Sequence[np.random.Generator]) -> Tensor:
    """The caption tokens to replace by padding in the input, a boolean mask `[pictures, tokens]`.

    Word dropout (Bowman et al. 2016, arXiv:1511.06349): predictions then depend less on previous words and more on the
    picture.

    Args:
        captions: `[pictures, tokens]`, as `PackedRows.captions`; negative outside of captions.
        share: probability of a token to be replaced.
        rngs: the source of randomness of each picture, so that its mask does not depend on the batch.
    """
    values = np.stack([rng.random(captions.shape[1]) for rng in rngs])
    return torch.from_numpy(values < share) & (captions >= 0)


def _box(size: tuple[int, int], smallest: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a random crop of at least `smallest` of the area (before clipping)."""
    width, height = size
    area = rng.uniform(smallest, 1)
    aspect = math.exp(rng.uniform(-1, 1) * math.log(_MAX_ASPECT_RATIO) / 2)
    wide = max(1, min(width, round(width * math.sqrt(area) * aspect)))
    high = max(1, min(height, round(height * math.sqrt(area) / aspect)))
    left, top = int(rng.integers(width - wide + 1)), int(rng.integers(height - high + 1))
    return left, top, left + wide, top + high
