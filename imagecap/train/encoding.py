"""Filling the feature cache: a frozen vision encoder encodes all pictures of a run once, before the first step."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from imagecap.config import Settings
from imagecap.data.prefetch import prefetch
from imagecap.train.augmentation import uses_augmentation
from imagecap.train.feature_cache import FeatureCache, feature_cache_key
from imagecap.train.loader import AHEAD, Loader, threads_for
from imagecap.train.plan import Plan
from imagecap.train.progress import print_status, progress_bar
from imagecap.train.step import TrainStep


def open_feature_cache(train_step: TrainStep, folder: Path, settings: Settings) -> FeatureCache | None:
    """Open the feature cache; None if it is switched off, the encoder is trained, or pictures are augmented.

    Args:
        train_step: holds the model.
        folder: folder of the feature cache.
        settings: all settings of the run.
    """
    options, model = settings.train, train_step.model
    if train_step.encoder_trains or not options.feature_cache or uses_augmentation(options):
        return None
    shape = (model.num_patches, model.llava.config.vision_config.hidden_size)
    key = feature_cache_key(model, train_step.feature_dtype, train_step.attention_kernel)
    return FeatureCache(folder, key, shape, train_step.feature_dtype, options.feature_cache_gb * 1e9)


def encode_pictures(train_step: TrainStep, folder: Path, plans: Sequence[Plan], settings: Settings) -> None:
    """Encode the pictures of the plans into the feature cache, up to its capacity.

    It may be interrupted between any two instructions: the pictures that are encoded then are kept.

    Args:
        train_step: holds the model.
        folder: folder of the feature cache.
        plans: plans of training and validation.
        settings: all settings of the run.
    """
    cache = open_feature_cache(train_step, folder, settings)
    if cache is None:
        if uses_augmentation(settings.train):
            print_status("pictures are augmented: their features change with every epoch and are not kept")
        return
    wanted: dict[str, tuple[Plan, int]] = {}
    for plan in plans:
        for picture, sample in enumerate(plan.samples):
            wanted.setdefault(sample.digest, (plan, picture))
    cache.make_room(set(wanted))
    missing = [place for digest, place in wanted.items() if digest not in cache]
    room = cache.capacity - len(cache.by_digest)
    if len(missing) > room:
        print_status(
            f"the feature cache holds {cache.capacity} pictures "
            f"(--feature_cache_gb {settings.train.feature_cache_gb}); "
            f"{len(missing) - room} are encoded again in every epoch"
        )
        missing = missing[:room]
    loaders = {id(plan): Loader(train_step.model, plan, None, settings.data.max_image_pixels) for plan in plans}

    def read(places: list[tuple[Plan, int]]) -> tuple[list[str], Tensor]:
        digests = [plan.samples[picture].digest for plan, picture in places]
        return digests, torch.stack([loaders[id(plan)].pixels(picture) for plan, picture in places])

    size = train_step.encoder_batch
    batches = [missing[first : first + size] for first in range(0, len(missing), size)]
    threads = threads_for(train_step.model.device)
    with encoder_weights_cast(train_step), progress_bar("encoding pictures", len(missing), "picture") as bar:
        for digests, pixels in prefetch(read, batches, threads=threads, ahead=AHEAD * threads):
            for digest, features in zip(digests, train_step.encode(pixels).to("cpu"), strict=True):
                cache.add(digest, features)
            bar.update(len(digests))


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
