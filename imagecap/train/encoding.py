"""Filling the feature cache: a frozen vision encoder encodes all pictures of a run once, before the first step."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from imagecap.config import Settings, TrainSettings
from imagecap.data.prefetch import prefetch
from imagecap.train.augmentation import uses_augmentation
from imagecap.train.feature_cache import (
    FeatureCache,
    FeatureWriter,
    cache_errors,
    delete_features,
    feature_cache_key,
)
from imagecap.train.feature_records import RecordFormat
from imagecap.train.loader import AHEAD, Loader, threads_for
from imagecap.train.plan import Plan
from imagecap.train.progress import print_status, progress_bar
from imagecap.train.shared_folder import ranks_that_share
from imagecap.train.step import TrainStep

PICTURES_PER_ROUND = 256  # then the processes tell each other of signals and errors


def open_feature_cache(train_step: TrainStep, folder: Path, settings: Settings) -> FeatureCache | None:
    """Open the feature cache; None if it is switched off, the encoder is trained, or pictures are augmented.

    Args:
        train_step: holds the model.
        folder: folder of the feature cache.
        settings: all settings of the run.
    """
    if not _uses_cache(train_step, settings):
        return None
    return FeatureCache(folder, *_key_and_records(train_step, settings))


def stores_int8(options: TrainSettings) -> bool:
    """Whether the features of a frozen encoder are rounded to int8, be they cached or not."""
    return options.feature_cache_dtype == "int8" and not uses_augmentation(options)


def encode_pictures(
    train_step: TrainStep, folder: Path, plans: Sequence[Plan], settings: Settings
) -> Generator[None, None, None]:
    """Encode the pictures of the plans into the feature cache, up to its limit; each process encodes a share.

    Processes on machines that do not share `folder` fill one cache per machine. The process may be interrupted between
    any two instructions: the pictures that are encoded then are kept.

    Args:
        train_step: holds the model and the processes of the training.
        folder: folder of the feature cache.
        plans: plans of training and validation.
        settings: all settings of the run.

    Yields:
        Where this process must wait until all processes have come to the same place, at least every
        `PICTURES_PER_ROUND` pictures. A process with fewer pictures may end earlier.

    Raises:
        ImageCapError: the cache cannot be written, or a picture cannot be read.
    """
    group = train_step.group
    if not _uses_cache(train_step, settings):
        if uses_augmentation(settings.train):
            print_status("pictures are augmented: their features change with every epoch and are not kept")
        return
    key, records = _key_and_records(train_step, settings)
    capacity = int(settings.train.feature_cache_gb * 1e9 // records.nbytes)
    with cache_errors(folder, "written"):
        sharing = yield from ranks_that_share(folder, group)
    pictures = _Pictures(plans)
    if sharing[0] == group.rank:
        delete_features(folder, keep=key)
        if not _fits(FeatureCache(folder, key, records), pictures, capacity):
            delete_features(folder)
    yield
    cache = FeatureCache(folder, key, records)
    yield  # nothing is written before all processes have seen what is there
    missing = pictures.missing(cache)
    room = capacity - len(cache)
    if len(missing) > room:
        print_status(
            f"the feature cache holds {capacity} pictures (--feature_cache_gb {settings.train.feature_cache_gb}); "
            f"{len(missing) - room} are encoded again in every epoch"
        )
    share = np.array_split(missing[:room], len(sharing))[sharing.index(group.rank)]
    del cache, missing
    writer = FeatureWriter(folder, key, records, group.rank)
    loaders = [Loader(train_step.model, plan, None, settings.data.max_image_pixels) for plan in plans]

    def read(places: NDArray[np.int64]) -> tuple[list[str], Tensor]:
        found = [pictures.locate(place) for place in places.tolist()]
        digests = [plans[plan].samples[picture].digest for plan, picture in found]
        return digests, torch.stack([loaders[plan].pixels(picture) for plan, picture in found])

    size = train_step.encoder_batch
    batches = (share[first : first + size] for first in range(0, len(share), size))
    threads = threads_for(train_step.model.device)
    title = "encoding pictures" if len(sharing) == 1 else f"encoding a {len(sharing)}th of the pictures"
    since_yield = 0
    with encoder_weights_cast(train_step), progress_bar(title, len(share), "picture") as bar:
        for digests, pixels in prefetch(read, batches, threads=threads, ahead=AHEAD * threads):
            writer.add(digests, train_step.encode(pixels))
            bar.update(len(digests))
            since_yield += len(digests)
            if since_yield >= PICTURES_PER_ROUND:
                since_yield = 0
                yield


class _Pictures:
    """The pictures of several plans, numbered one plan after the other, each digest once."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        digests = [plan.samples.digests for plan in plans]
        self._rows = np.concatenate([plan.samples.rows for plan in plans])
        self.digests, self._first = np.unique(np.concatenate(digests), return_index=True)
        self._ends = np.cumsum([len(each) for each in digests], dtype=np.int64)

    def missing(self, cache: FeatureCache) -> NDArray[np.int64]:
        """Numbers of the pictures that are not cached: plan by plan, in the order in which they lie in their files."""
        found = self._first[cache.find(self.digests) < 0]
        return found[np.lexsort((self._rows[found], np.searchsorted(self._ends, found, side="right")))]

    def locate(self, number: int) -> tuple[int, int]:
        """The index of a picture's plan, and that of the picture in it."""
        plan = int(np.searchsorted(self._ends, number, side="right"))
        return plan, number - (int(self._ends[plan - 1]) if plan else 0)


def _fits(cache: FeatureCache, pictures: _Pictures, capacity: int) -> bool:
    """False if the cache is above its limit, or holds other pictures whose place the missing ones need."""
    cached = int((cache.find(pictures.digests) >= 0).sum())
    missing = len(pictures.digests) - cached
    others = len(cache) - cached
    return len(cache) <= capacity and not (others and missing and len(cache) + missing > capacity)


def _uses_cache(train_step: TrainStep, settings: Settings) -> bool:
    return not train_step.encoder_trains and settings.train.feature_cache and not uses_augmentation(settings.train)


def _key_and_records(train_step: TrainStep, settings: Settings) -> tuple[str, RecordFormat]:
    model = train_step.model
    shape = (model.num_patches, model.llava.config.vision_config.hidden_size)
    records = RecordFormat(shape, train_step.feature_dtype, stores_int8(settings.train))
    return feature_cache_key(model, records, train_step.attention_kernel), records


@contextmanager
def encoder_weights_cast(train_step: TrainStep) -> Iterator[None]:
    """Cast the weights of the encoder's linear layers to the autocast dtype within the `with` block.

    Otherwise autocast would cast them again for every batch. The features are equal bit for bit.
    """
    layers = [module for module in train_step.model.vision_tower.modules() if isinstance(module, nn.Linear)]
    originals = [layer.weight.data for layer in layers]
    if train_step.dtype != torch.float32:
        for layer in layers:
            layer.weight.data = layer.weight.data.to(train_step.dtype)
    try:
        yield
    finally:
        for layer, weight in zip(layers, originals, strict=True):
            layer.weight.data = weight
