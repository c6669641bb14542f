"""The feature cache of a training: it fills while a frozen vision encoder meets pictures for the first time."""

from collections.abc import Generator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from torch import Tensor

from imagecap.config import Settings, TrainSettings
from imagecap.data.digest_table import Digests
from imagecap.errors import ImageCapError
from imagecap.train.augmentation import uses_augmentation
from imagecap.train.feature_cache import (
    FeatureCache,
    FeatureWriter,
    cache_errors,
    delete_features,
    feature_cache_key,
)
from imagecap.train.feature_records import RecordFormat
from imagecap.train.plan import Plan
from imagecap.train.progress import print_status
from imagecap.train.shared_folder import ranks_that_share
from imagecap.train.step import TrainStep

REFRESH_EVERY = 65_536  # pictures, after which those that were kept meanwhile are looked up too
_FIRST_REFRESH = 1024  # earlier while the cache is small, since an epoch may use a picture several times


class FeatureStore:
    """Reads and fills the feature cache of a training.

    Args:
        train_step: holds the model and the processes of the training.
        folder: folder of the feature cache.
        settings: all settings of the run.

    Attributes:
        cache: the pictures that were kept up to the last `refresh`.
        kept: pictures that this process has added.
        expected: pictures that this process may still add, if it meets so many: its share of those that are missing.
        missing: pictures that all processes may add.
    """

    cache: FeatureCache
    _writer: FeatureWriter

    def __init__(self, train_step: TrainStep, folder: Path, settings: Settings) -> None:
        model, self.group, self.folder = train_step.model, train_step.group, folder
        shape = (model.num_patches, model.feature_width)
        self.records = RecordFormat(shape, train_step.feature_dtype, stores_int8(settings.train))
        self._key = feature_cache_key(model, self.records, train_step.attention_kernel)
        self._limit = settings.train.feature_cache_gb
        self._capacity = int(self._limit * 1e9 // self.records.nbytes)
        self.kept = self.expected = self.missing = 0
        self._new: set[str] = set()  # digests that were added since the last refresh

    @property
    def missing_bytes(self) -> int:
        """What the processes of this machine will add to the folder, in bytes."""
        return self.missing * self.records.nbytes

    def open(self, plans: Sequence[Plan]) -> Generator[None, None, None]:
        """Open the cache, after features of other encoders, and those that are in the way, were deleted.

        Processes on machines that do not share the folder fill one cache per machine. What the cache may hold is
        divided among the processes that share it.

        Args:
            plans: plans of training and validation.

        Yields:
            Where this process must wait until all processes have come to the same place.

        Raises:
            ImageCapError: the folder cannot be read or written.
        """
        with cache_errors(self.folder, "written"):
            sharing = yield from ranks_that_share(self.folder, self.group)
        digests = np.unique(np.concatenate([plan.samples.digests for plan in plans]))
        if sharing[0] == self.group.rank:
            delete_features(self.folder, keep=self._key)
            if not self._fits(FeatureCache(self.folder, self._key, self.records), digests):
                delete_features(self.folder)
        yield
        self.cache = FeatureCache(self.folder, self._key, self.records)
        yield  # nothing is written before all processes have seen what is there
        self._writer = FeatureWriter(self.folder, self._key, self.records, self.group.rank)
        absent = int((self.cache.find(digests) < 0).sum())
        room = self._capacity - len(self.cache)
        if absent > room:
            print_status(
                f"the feature cache holds {self._capacity} pictures (--feature_cache_gb {self._limit}); "
                f"{absent - room} are encoded again in every epoch"
            )
        self.missing = min(absent, room)
        self._room = room // len(sharing) + (sharing.index(self.group.rank) < room % len(sharing))
        self.expected = min(self._room, -(-absent // len(sharing)))

    def _fits(self, cache: FeatureCache, digests: Digests) -> bool:
        """False if the cache is above its limit, or holds other pictures whose place the missing ones need."""
        cached = int((cache.find(digests) >= 0).sum())
        missing, others = len(digests) - cached, len(cache) - cached
        return len(cache) <= self._capacity and not (others and missing and len(cache) + missing > self._capacity)

    def add(self, digests: Sequence[str], features: Tensor) -> int:
        """Keep features that were computed, while there is room; on a GPU the host waits for them.

        Those of a picture that an epoch uses several times are kept once. If features cannot be written, the training
        goes on without keeping more.

        Args:
            digests: digests of the pictures.
            features: `[pictures, patches, vision_hidden]`.

        Returns:
            Of how many pictures features were kept.
        """
        if not self._room:
            return 0
        unknown = {digest: place for place, digest in enumerate(digests) if not self._knows(digest)}
        chosen = dict(islice(unknown.items(), self._room))
        count = len(chosen)
        if not count:
            return 0
        try:
            self._writer.add(list(chosen), features[list(chosen.values())])
        except ImageCapError as error:
            print_status(f"{error}. Pictures that are not in it are encoded in every epoch")
            self._room = self.expected = 0
            return 0
        self._room -= count
        self.kept += count
        self.expected = max(0, self.expected - count)
        self._new.update(chosen)
        # a refresh reads the digests of all files, so that few of them make up most of the time
        if len(self._new) >= min(REFRESH_EVERY, max(_FIRST_REFRESH, len(self.cache) // 4)):
            self.refresh()
        return count

    def _knows(self, digest: str) -> bool:
        return digest in self._new or digest in self.cache

    def refresh(self) -> None:
        """Look up what this and other processes have kept since the last time.

        Raises:
            ImageCapError: the files cannot be read.
        """
        self._new.clear()
        self.cache.refresh()


def open_feature_store(train_step: TrainStep, folder: Path, settings: Settings) -> FeatureStore | None:
    """The feature store; None if it is off, the encoder is trained, or pictures are augmented or cut into tiles.

    Args:
        train_step: holds the model.
        folder: folder of the feature cache.
        settings: all settings of the run.
    """
    if train_step.encoder_trains or not settings.train.feature_cache:
        return None
    if train_step.model.tiling is not None:
        print_status("pictures are cut into tiles, of which they have different numbers: their features are not kept")
        return None
    if uses_augmentation(settings.train):
        print_status("pictures are augmented: their features change with every epoch and are not kept")
        return None
    return FeatureStore(train_step, folder, settings)


def stores_int8(options: TrainSettings) -> bool:
    """Whether the features of a frozen encoder are rounded to int8, be they cached or not."""
    return options.feature_cache_dtype == "int8" and not uses_augmentation(options)
