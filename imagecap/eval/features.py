"""One vector per picture from the model's own vision encoder: which training picture does it find most alike?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from imagecap.data.images import load_image

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner


def picture_features(
    model: "ImageCaptioner", paths: Sequence[Path], max_pixels: int, batch_size: int
) -> NDArray[np.float32]:
    """Mean patch feature of each picture, of length 1: `[pictures, vision_hidden]`."""
    parts = []
    with torch.inference_mode():
        for batch in _batches(paths, batch_size):
            pixels = model.pixel_values([load_image(path, max_pixels) for path in batch])
            mean = model.encode_images(pixels).float().mean(dim=1)
            parts.append(torch.nn.functional.normalize(mean, dim=-1).cpu().numpy())
    return np.concatenate(parts)


def nearest(features: NDArray[np.float32], training: NDArray[np.float32]) -> list[int]:
    """Index of the most similar training picture (cosine) for each picture."""
    centre = training.mean(axis=0)
    # the mean picture is common to all of them; without it the cosine tells pictures apart much better
    return [int(index) for index in ((features - centre) @ (training - centre).T / _norms(training - centre)).argmax(1)]


def _norms(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.maximum(np.linalg.norm(vectors, axis=1), 1e-12)


def _batches(paths: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    for start in range(0, len(paths), size):
        yield paths[start : start + size]
