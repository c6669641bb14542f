"""Packing a data folder into WebDataset shards, and adding to shards what they do not hold yet."""

import hashlib
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from imagecap.config import DataSettings
from imagecap.data.dataset import read_captions
from imagecap.data.records import SPLITS, Caption, Sample
from imagecap.data.shard_writer import SHARD_BYTES, SHARD_PICTURES, Written, write_shards
from imagecap.errors import ImageCapError, one_line

_SHARD = re.compile(r"\d{5,}\.tar")
_KEY = re.compile(r"(\d{9,})\.json")


@dataclass(frozen=True)
class Packed:
    """What packing did.

    Attributes:
        new: counts of what was written.
        already: number of pictures that the shards held before, with all their captions.
    """

    new: Written
    already: int


def pack(
    samples: Sequence[Sample],
    folder: Path,
    *,
    max_pixels: int,
    shard_pictures: int = SHARD_PICTURES,
    shard_bytes: int = SHARD_BYTES,
) -> Packed:
    """Write samples into shards (see `write_shards`), except for what the shards in `folder` hold already.

    A picture is known by its pixels, and by its captions with language, prompt and further columns. What is new goes
    to new shards; earlier ones are never changed. After an interruption the same call therefore goes on.

    Args:
        samples: from `read_captions`.
        folder: a new or empty folder, or one that `pack` has written.
        max_pixels: see `load_image`, for the pictures in earlier shards.
        shard_pictures: pictures in a new shard at most.
        shard_bytes: size from which a new shard gets no further picture.

    Raises:
        ImageCapError: `folder` holds something else, its shards cannot be read, a picture is in another split there, or
            a picture cannot be read any more.
    """
    shards = shards_in(folder)
    settings = DataSettings(format="webdataset", max_image_pixels=max_pixels)
    before = read_captions(settings, folder, need_training=False)[0] if shards else ()
    known = _Hashes(before)
    counts = _Counts()
    written = write_shards(
        _new(samples, known, folder, counts),
        folder,
        first_shard=int(shards[-1].stem) + 1 if shards else 0,
        first_key=_last_key(shards[-1]) + 1 if shards else 0,
        shard_pictures=shard_pictures,
        shard_bytes=shard_bytes,
    )
    return Packed(written, counts.already)


def shards_in(folder: Path) -> list[Path]:
    """Return the shards that `pack` has written into a folder, in order; none if it is new or empty.

    Raises:
        ImageCapError: the folder holds anything else. Hidden files do not count.
    """
    if not folder.exists():
        return []
    if not folder.is_dir():
        raise ImageCapError(f"{folder} is a file; name a folder for the shards")
    visible = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    for entry in visible:
        if not _SHARD.fullmatch(entry.name):
            raise ImageCapError(f"{folder} holds {entry.name}, and not only shards of pack; name another folder")
    shards = sorted(visible, key=lambda shard: int(shard.stem))
    if shards:
        _last_key(shards[-1])
    return shards


def _last_key(shard: Path) -> int:
    """The key of the last picture of a shard."""
    last = None
    try:
        with tarfile.open(shard, "r:") as opened:
            for member in opened:
                last = _KEY.fullmatch(member.name) or last
            content = opened.extractfile(last[0]) if last else None
            described = json.load(content) if content is not None else None
    except (tarfile.TarError, OSError, ValueError) as error:
        raise ImageCapError(f"{shard} cannot be read as a shard of pack ({one_line(error)}): remove it") from None
    if last is None or not isinstance(described, dict) or not {"image", "split", "captions"} <= described.keys():
        raise ImageCapError(f"{shard} was not written by pack; name another folder")
    return int(last[1])


@dataclass
class _Counts:
    already: int = 0


def _new(samples: Iterable[Sample], known: "_Hashes", folder: Path, counts: _Counts) -> Iterator[Sample]:
    """Yield the samples with the captions that are not known; count those that have none."""
    for sample in samples:
        there = known.has([_of_split(sample.digest, split) for split in SPLITS])
        other = next(
            (split for split, found in zip(SPLITS, there, strict=True) if found and split != sample.split), None
        )
        if other is not None:
            raise ImageCapError(
                f"{sample.image} is in the split {sample.split} of the data, and in {other} in {folder}: pack into a "
                "new folder, or choose the settings of splits with which those shards were written"
            )
        found = known.has([_of_caption(sample.digest, caption) for caption in sample.captions])
        captions = tuple(each for each, is_known in zip(sample.captions, found, strict=True) if not is_known)
        if captions:
            yield replace(sample, captions=captions) if len(captions) < len(sample.captions) else sample
        else:
            counts.already += 1


class _Hashes:
    """The pictures' splits and captions of a data set, as sorted hashes of 16 bytes: a tenth of a set's memory."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._sorted = np.fromiter(self._of(samples), dtype="S16")
        self._sorted.sort()

    def has(self, hashes: Sequence[bytes]) -> list[bool]:
        """Whether each of the hashes is there."""
        if not len(self._sorted):
            return [False] * len(hashes)
        wanted = np.array(hashes, dtype="S16")
        places = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
        return list((self._sorted[places] == wanted).tolist())

    @staticmethod
    def _of(samples: Iterable[Sample]) -> Iterator[bytes]:
        for sample in samples:
            yield _of_split(sample.digest, sample.split)
            for caption in sample.captions:
                yield _of_caption(sample.digest, caption)


def _of_split(digest: str, split: str) -> bytes:
    return _hash([digest, split])


def _of_caption(digest: str, caption: Caption) -> bytes:
    return _hash([digest, caption.text, caption.language, caption.prompt, caption.extra])


def _hash(content: list[object]) -> bytes:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()[:16]
