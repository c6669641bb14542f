"""Packing a data folder into WebDataset shards, and adding to shards what they do not hold yet."""

import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from imagecap.config import DataSettings
from imagecap.data.dataset import read_captions
from imagecap.data.digest_table import DIGEST, DigestTable, digest_array
from imagecap.data.fingerprints import caption_fingerprints
from imagecap.data.picture_names import free_name, usable_name
from imagecap.data.records import SPLITS, Caption, Sample, Split
from imagecap.data.samples import Samples
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
    known = _Known(read_captions(settings, folder, need_training=False)[0] if shards else None)
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


def _new(samples: Iterable[Sample], known: "_Known", folder: Path, counts: _Counts) -> Iterator[Sample]:
    """Yield the samples with the captions that are not known; count those that have none."""
    for sample in samples:
        split = known.split_of(sample.digest)
        if split not in (None, sample.split):
            raise ImageCapError(
                f"{sample.image} is in the split {sample.split} of the data, and in {split} in {folder}: pack into a "
                "new folder, or choose the settings of splits with which those shards were written"
            )
        new = known.without(sample.digest, sample.captions) if split is not None else sample.captions
        if not new:
            counts.already += 1
            continue
        name = free_name(usable_name(sample.image, len(known.names) + 1), known.names)
        known.names.add(name)
        yield replace(sample, image=name, captions=new)


class _Known:
    """What a data set holds: the splits of its pictures, and its captions.

    Attributes:
        names: of its pictures. Names of pictures are unique in a data set of several shards.
    """

    def __init__(self, samples: Samples | None) -> None:
        samples = samples if samples is not None else Samples([])
        self._pictures, self._splits = DigestTable(samples.digests), samples.splits
        self._captions = DigestTable(samples.fingerprints.view(DIGEST))
        self.names: set[str] = set()
        for part in samples.parts:
            self.names.update(part.batch.column("image").to_pylist())

    def split_of(self, digest: str) -> Split | None:
        """The split of the picture with this digest; None if there is none."""
        (place,) = self._pictures.find(digest_array([digest], 1))
        return SPLITS[self._splits[place]] if place >= 0 else None

    def without(self, digest: str, captions: Sequence[Caption]) -> tuple[Caption, ...]:
        """Those of a picture's captions that are not there."""
        fingerprints = np.array(caption_fingerprints(digest, captions), DIGEST)
        places = self._captions.find(fingerprints)
        return tuple(caption for caption, place in zip(captions, places, strict=True) if place < 0)
