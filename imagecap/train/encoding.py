"""Encoding all pictures of a run once, before its first step, where the encoder is frozen."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from imagecap.config import Settings
from imagecap.data.prefetch import prefetch
from imagecap.train.augmentation import augments
from imagecap.train.engine import Engine
from imagecap.train.features import FeatureCache, features_key
from imagecap.train.loader import AHEAD, Loader, threads_for
from imagecap.train.plan import Plan
from imagecap.train.progress import bar, say
from imagecap.train.signals import Stop


def features_of(
    engine: Engine, folder: Path, plans: Sequence[Plan], settings: Settings, stop: Stop
) -> FeatureCache | None:
    """The cache with all features of the plans' pictures, as far as there is room; None where none can be kept.

    Of several processes the first encodes, and the others wait. When told to stop, the rest is left.
    """
    cache = None
    if engine.group.rank == 0:
        cache = _open(engine, folder, settings)
        if cache is not None:
            _encode_all(engine, cache, plans, settings, stop)
    engine.group.from_first(None)
    return cache if engine.group.rank == 0 else _open(engine, folder, settings)


def _open(engine: Engine, folder: Path, settings: Settings) -> FeatureCache | None:
    options, model = settings.train, engine.model
    if engine.encoder_trains or not options.feature_cache:
        return None
    if augments(options):
        say("pictures are augmented: their features change with every epoch and are not kept")
        return None
    shape = (model.num_patches, model.llava.config.vision_config.hidden_size)
    key = features_key(model, engine.feature_dtype, engine.kernel)
    return FeatureCache(folder, key, shape, engine.feature_dtype, options.feature_cache_gb * 1e9)


def _encode_all(engine: Engine, cache: FeatureCache, plans: Sequence[Plan], settings: Settings, stop: Stop) -> None:
    wanted: dict[str, tuple[Plan, int]] = {}
    for plan in plans:
        for picture, sample in enumerate(plan.samples):
            wanted.setdefault(sample.digest, (plan, picture))
    cache.make_room(set(wanted))
    missing = [place for digest, place in wanted.items() if digest not in cache]
    room = cache.slots - len(cache.by_digest)
    if len(missing) > room:
        say(
            f"the feature cache holds {cache.slots} pictures (--feature_cache_gb {settings.train.feature_cache_gb}); "
            f"{len(missing) - room} are encoded again in every epoch"
        )
        missing = missing[:room]
    loaders = {id(plan): Loader(engine.model, plan, None, settings.data.max_image_pixels) for plan in plans}

    def read(places: list[tuple[Plan, int]]) -> tuple[list[str], Tensor]:
        digests = [plan.samples[picture].digest for plan, picture in places]
        return digests, torch.stack([loaders[id(plan)].pixels(picture) for plan, picture in places])

    size = engine.encoded_at_once
    batches = [missing[first : first + size] for first in range(0, len(missing), size)]
    threads = threads_for(engine.model.device)
    with cast_once(engine), bar("encoding pictures", len(missing), "picture") as shown:
        for digests, pixels in prefetch(read, batches, threads=threads, ahead=AHEAD * threads):
            for digest, features in zip(digests, engine.encode(pixels).to("cpu"), strict=True):
                cache.add(digest, features)
            shown.update(len(digests))
            if stop:
                return


@contextmanager
def cast_once(engine: Engine) -> Iterator[None]:
    """Hold the encoder's matrices in the type of the products, which autocast would make anew for every picture.

    The features are the same, bit for bit.
    """
    layers = [module for module in engine.model.vision_tower.modules() if isinstance(module, nn.Linear)]
    whole = [layer.weight.data for layer in layers]
    if engine.dtype != torch.float32:
        for layer in layers:
            layer.weight.data = layer.weight.data.to(engine.dtype)
    try:
        yield
    finally:
        for layer, weight in zip(layers, whole, strict=True):
            layer.weight.data = weight
