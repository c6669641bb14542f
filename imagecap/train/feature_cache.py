"""Feature cache: patch features of a frozen vision encoder, computed once per picture and kept on disk.

Each process of a training writes a pair of files of its own, which has its rank as number, and reads the files of all.
`features-KEY-RANK.bin` has a record of equal size per picture, and `features-KEY-RANK.index` the digest of the picture
of each record (32 bytes). Records are written before their digests, so that a killed process leaves only records that
have no digest, which are overwritten later. KEY is a hash of everything besides the picture that determines features:
encoder weights, preprocessing, layer, dtype and attention kernel. A changed encoder therefore uses other files.

Records are read by file access, not by memory mapping: the pages of a mapped file count as memory of the process.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imagecap.data.digest_table import DIGEST, DIGEST_BYTES, Digests, DigestTable, digest_array
from imagecap.errors import ImageCapError
from imagecap.model.imagecap_arch import ImageCaptioner
from imagecap.model.vision_encoder.clip_encoder import num_blocks_used
from imagecap.train.feature_records import RecordFormat

_FORMAT = 2  # changes with the form of the files; those of another form are deleted


@dataclass(frozen=True)
class _Files:
    """Files of a cache: their indexes, after which record each of them ends, and the digests of all their records."""

    indexes: list[Path]
    ends: NDArray[np.int64]
    table: DigestTable


class FeatureCache:
    """The patch features in a folder, looked up by the digest of the picture.

    What is written later is seen after `refresh`, which other threads may call while this one reads.

    Args:
        folder: folder of the files; it need not exist.
        key: from `feature_cache_key`.
        records: how features are stored.

    Raises:
        ImageCapError: the folder cannot be read.
    """

    def __init__(self, folder: Path, key: str, records: RecordFormat) -> None:
        self.folder, self._key, self.records = folder, key, records
        self._sizes: list[int] | None = None
        self.refresh()

    def refresh(self) -> None:
        """Look for what was written since the last time.

        Raises:
            ImageCapError: the files cannot be read.
        """
        with cache_errors(self.folder, "read"):
            indexes = sorted(self.folder.glob(f"features-{self._key}-*.index"))
            sizes = [index.stat().st_size for index in indexes]
            if sizes == self._sizes:
                return
            digests = [_read_index(index, self.records) for index in indexes]
        ends = np.cumsum([len(each) for each in digests], dtype=np.int64)
        self._files = _Files(indexes, ends, DigestTable(np.concatenate(digests) if digests else np.empty(0, DIGEST)))
        self._sizes = sizes

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self._files.table)

    def __contains__(self, digest: str) -> bool:
        return bool(self.find(digest_array([digest], 1))[0] >= 0)

    def find(self, digests: Digests) -> NDArray[np.int64]:
        """The record of each picture, counted over all files, `[pictures]`; -1 where it is not cached."""
        return self._files.table.find(digests)

    def read(self, digests: Sequence[str]) -> Tensor:
        """Read the features of cached pictures, `[pictures, patches, vision_hidden]`, on the CPU.

        Raises:
            ImageCapError: the files cannot be read, or were shortened meanwhile.
        """
        files_read = self._files  # `refresh` may replace them meanwhile
        found = files_read.table.find(digest_array(digests, len(digests)))
        files = np.searchsorted(files_read.ends, found, side="right")
        size = self.records.nbytes
        raw = np.empty((len(digests), size), np.uint8)
        with cache_errors(self.folder, "read"):
            for number in np.unique(files).tolist():
                first = int(files_read.ends[number - 1]) if number else 0
                with _data_of(files_read.indexes[number]).open("rb", buffering=0) as file:
                    for place in np.flatnonzero(files == number).tolist():
                        file.seek((int(found[place]) - first) * size)
                        if file.readinto(memoryview(raw[place])) != size:
                            raise OSError(0, "it is shorter than its index")
        return self.records.from_bytes(torch.from_numpy(raw))


class FeatureWriter:
    """Appends features to the files of one process. Only one process at a time may write files of a number.

    Args:
        folder: folder of the files; it exists.
        key: from `feature_cache_key`.
        records: how features are stored.
        number: the number of the files, such as the rank of the process.

    Raises:
        ImageCapError: the files cannot be written.
    """

    def __init__(self, folder: Path, key: str, records: RecordFormat, number: int) -> None:
        self.records, self.index = records, folder / f"features-{key}-{number:05}.index"
        self.data = _data_of(self.index)
        with cache_errors(folder, "written"):
            for file in (self.data, self.index):
                file.touch()
            self._count = len(_read_index(self.index, records))
            os.truncate(self.index, self._count * DIGEST_BYTES)

    def add(self, digests: Sequence[str], features: Tensor) -> None:
        """Store the features of pictures.

        Args:
            digests: digests of the pictures.
            features: `[pictures, patches, vision_hidden]`.

        Raises:
            ImageCapError: the files cannot be written, for example because the disk is full.
        """
        raw = self.records.to_bytes(features).numpy()
        with cache_errors(self.data.parent, "written"):
            with self.data.open("r+b") as file:
                file.seek(self._count * self.records.nbytes)
                file.write(raw.data)
            with self.index.open("ab") as file:
                file.write(digest_array(digests, len(digests)).tobytes())
        self._count += len(digests)


def delete_features(folder: Path, keep: str | None = None) -> None:
    """Delete the files of all keys but `keep`.

    Raises:
        ImageCapError: the folder cannot be written.
    """
    with cache_errors(folder, "written"):
        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.glob("features-*"):
            if keep is None or keep not in file.name:
                file.unlink(missing_ok=True)


@contextmanager
def cache_errors(folder: Path, what: str) -> Iterator[None]:
    """Turn an OSError within the block into an ImageCapError: the cache cannot be `what` ("read", "written")."""
    try:
        yield
    except OSError as error:
        raise ImageCapError(
            f"the feature cache {folder} cannot be {what} ({error.strerror}): "
            + ("make room, or give --feature_cache_gb or" if what == "written" else "remove it, or give")
            + " --feature_cache false"
        ) from None


def feature_cache_key(model: ImageCaptioner, records: RecordFormat, kernel: str) -> str:
    """Hash of everything besides the picture that determines its features.

    Args:
        model: the captioner; image processor, reduced decoding, feature layer and the encoder weights up to this layer
            are hashed.
        records: how features are stored.
        kernel: name of the attention kernel; results of different kernels differ in the last bits.
    """
    config = model.llava.config
    reduced = [] if model.least_side is None else [model.least_side]
    total = hashlib.sha256()
    facts = [
        _FORMAT,
        json.loads(model.image_processor.to_json_string()),
        config.vision_config.model_type,
        config.vision_feature_layer,
        config.vision_feature_select_strategy,
        str(records.dtype),
        records.int8,
        kernel,
        *reduced,
    ]
    total.update(json.dumps(facts, sort_keys=True).encode())
    used = num_blocks_used(model.vision_tower, config.vision_feature_layer)
    for name, weight in model.vision_tower.state_dict().items():
        parts = name.split(".")
        if parts[:2] == ["encoder", "layers"] and int(parts[2]) >= used:
            continue
        total.update(name.encode())
        total.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:24]


def _data_of(index: Path) -> Path:
    return index.with_suffix(".bin")


def _read_index(index: Path, records: RecordFormat) -> Digests:
    """The digests of the complete records of a pair of files; none if one of the two is missing."""
    try:
        complete = _data_of(index).stat().st_size // records.nbytes
        digests = np.fromfile(index, DIGEST)  # leaves out an incomplete digest at the end
    except FileNotFoundError:
        return np.empty(0, DIGEST)
    return digests[:complete]
