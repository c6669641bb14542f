"""The nearest-neighbour floor: which training picture does the model's vision encoder find most alike?"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from imagecap.config import Settings
from imagecap.data.locations import Location
from imagecap.data.records import Sample
from imagecap.data.views import chosen
from imagecap.eval.items import Item
from imagecap.model.tiles.tiled import whole_pictures

if TYPE_CHECKING:
    from imagecap.model.imagecap_arch import ImageCaptioner

Floats = NDArray[np.float32]
NeighbourFunction = Callable[[Sequence[Item], Sequence[Sample]], list[int]]

_BATCHES = 100  # whose features are compared at once

POOL_PICTURES = 2000
"""Number of training pictures among which neighbours are sought: each costs a pass through the encoder."""


def nearest_samples(
    model: "ImageCaptioner",
    items: Sequence[Item],
    training: Sequence[Sample],
    settings: Settings,
    neighbours: NeighbourFunction | None = None,
) -> Sequence[Sample]:
    """Find the training picture most like each item.

    Args:
        model: its vision encoder compares the pictures.
        items: the evaluated items.
        training: the training pictures; of more than `POOL_PICTURES`, evenly spaced ones are searched.
        settings: limits and batch size.
        neighbours: replaces the encoder: returns the index of a training picture for each item.
    """
    step = max(1, -(-len(training) // POOL_PICTURES))
    pool = list(training[::step])
    if neighbours is not None:
        return chosen(pool, np.array(neighbours(items, pool), np.int32))
    limit, batch = settings.data.max_image_pixels, settings.evaluate.eval_batch_size
    paths = list(dict.fromkeys(item.path for item in items))
    features = picture_features(model, [sample.path for sample in pool], limit, batch)
    by_path: dict[Location, int] = {}
    for start in range(0, len(paths), _BATCHES * batch):  # the features of all pictures may not fit into memory
        part = paths[start : start + _BATCHES * batch]
        by_path |= zip(part, nearest(picture_features(model, part, limit, batch), features), strict=True)
    return chosen(pool, np.array([by_path[item.path] for item in items], np.int32))


def picture_features(model: "ImageCaptioner", paths: Sequence[Location], max_pixels: int, batch_size: int) -> Floats:
    """The mean patch feature of each picture, normalised to length 1. `[pictures, vision_hidden]`

    Args:
        model: the captioner whose vision encoder is used.
        paths: where the pictures are.
        max_pixels: larger pictures are refused.
        batch_size: pictures per pass through the encoder.
    """
    parts = []
    with torch.inference_mode():
        for start in range(0, len(paths), batch_size):
            images = [model.open_picture(path, max_pixels) for path in paths[start : start + batch_size]]
            features = model.encode_images(whole_pictures(model.pixel_values(images)))
            mean = whole_pictures(features).float().mean(dim=1)
            parts.append(torch.nn.functional.normalize(mean, dim=-1).cpu().numpy())
    return np.concatenate(parts)


def nearest(features: Floats, training: Floats) -> list[int]:
    """Index of the most similar training picture for each picture, by cosine similarity of centred features.

    Args:
        features: features of the pictures. `[pictures, vision_hidden]`
        training: features of the training pictures. `[training, vision_hidden]`
    """
    # all pictures share a large mean feature; without it the cosine tells them apart much better
    centre = training.mean(axis=0)
    norms = np.maximum(np.linalg.norm(training - centre, axis=1), 1e-12)
    return [int(index) for index in ((features - centre) @ (training - centre).T / norms).argmax(1)]
