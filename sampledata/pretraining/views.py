"""Augmentation in pretraining: pictures are shifted, zoomed, mirrored, lit differently and recoloured."""

import numpy as np
import torch
from torch import Tensor, nn
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD


def recolour(pixels: np.ndarray, chosen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The pictures `[images, side, side, 3]`, the chosen ones with red, green and blue exchanged, or bleached."""
    result = np.array(pixels)
    orders = ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    for number in np.flatnonzero(chosen):
        picture = result[number]
        if rng.random() < 0.4:
            weights = rng.dirichlet((1, 1, 1))
            darkness = (255 - picture @ weights) * rng.uniform(0.3, 1.0)
            left = rng.uniform(0, 0.3)
            result[number] = (left * picture + (1 - left) * (255 - darkness)[:, :, None]).astype(np.uint8)
        else:
            result[number] = picture[:, :, orders[rng.integers(len(orders))]]
    return result


def normalised(pixels: np.ndarray) -> Tensor:
    """Normalize bytes, `[images, side, side, 3]`, for CLIP. `[images, 3, side, side]`"""
    values = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)
    mean, std = torch.tensor(OPENAI_CLIP_MEAN), torch.tensor(OPENAI_CLIP_STD)
    return values.sub_(mean[:, None, None]).div_(std[:, None, None])


def apply_views(pixels: Tensor, view: np.ndarray, rng: np.random.Generator) -> Tensor:
    """The pictures through `view`, with small changes of brightness, contrast and noise."""
    images = len(pixels)
    left, top, width, height = (torch.from_numpy(view[:, column]).float() for column in range(4))
    start = torch.where(width < 0, left - width, left)
    theta = torch.zeros(images, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = width, height
    theta[:, 0, 2], theta[:, 1, 2] = 2 * start + width - 1, 2 * top + height - 1
    grid = nn.functional.affine_grid(theta, list(pixels.shape), align_corners=False)
    seen = nn.functional.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    contrast = torch.from_numpy(rng.uniform(0.9, 1.1, (images, 1, 1, 1))).float()
    brightness = torch.from_numpy(rng.uniform(-0.12, 0.12, (images, 1, 1, 1))).float()
    return seen * contrast + brightness + 0.03 * torch.randn_like(seen)


def random_views(images: int, rng: np.random.Generator) -> np.ndarray:
    """Views `[images, 4]` (left, top, width, height) that shift, zoom a little and mirror half of the pictures."""
    side = rng.uniform(0.85, 1.08, (images, 1))
    size = side * rng.uniform(0.97, 1.03, (images, 2))
    corner = (1 - size) * rng.uniform(0, 1, (images, 2))
    plain = rng.random((images, 1)) < 0.25
    size, corner = np.where(plain, 1.0, size), np.where(plain, 0.0, corner)
    size[:, 0] *= np.where(rng.random(images) < 0.5, -1, 1)
    return np.concatenate([corner, size], 1)
