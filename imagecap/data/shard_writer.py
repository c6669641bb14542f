"""Writing pictures and captions as WebDataset shards: tars of a few thousand pictures each.

A sample is two members, `KEY.jpg` (or another ending) with the bytes of the picture as they are, and `KEY.json`:

    {"image": "dog.jpg", "split": "train", "captions": [{"caption": "A dog.", "language": "en", "prompt": "…"}]}

KEY is a number of nine digits. Names of pictures cannot be keys, since a key ends at its first dot and may hold no
slash. The bytes of a shard depend on its samples only.
"""

import io
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from imagecap.data.picture_names import content_of, ending_of
from imagecap.data.records import Sample
from imagecap.files import atomic_writer

SHARD_PICTURES = 5000
"""Pictures in a shard, unless another number is chosen."""

SHARD_BYTES = 1 << 30
"""A shard that has reached this size gets no further picture, so that it can still be moved at ease."""


@dataclass(frozen=True)
class Written:
    """Counts of what was written."""

    pictures: int
    captions: int
    shards: int


def shard_name(number: int) -> str:
    """The file name of a shard, counted from 0."""
    return f"{number:05d}.tar"


def write_shards(
    samples: Iterable[Sample],
    folder: Path,
    *,
    first_shard: int = 0,
    first_key: int = 0,
    shard_pictures: int = SHARD_PICTURES,
    shard_bytes: int = SHARD_BYTES,
) -> Written:
    """Write samples into new shards. A shard gets its name when it is complete and on the disk.

    Args:
        samples: read one by one; only one picture is in memory.
        folder: is made if it is missing.
        first_shard: number of the first shard.
        first_key: key of the first picture.
        shard_pictures: pictures in a shard at most.
        shard_bytes: size from which a shard gets no further picture.

    Raises:
        ImageCapError: a picture cannot be read any more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    left = iter(samples)
    pictures = captions = shards = 0
    for first in left:
        with (
            atomic_writer(folder / shard_name(first_shard + shards)) as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as shard,
        ):
            for sample in chain([first], islice(left, shard_pictures - 1)):
                _add(shard, first_key + pictures, sample)
                pictures += 1
                captions += len(sample.captions)
                if file.tell() >= shard_bytes:
                    break
        shards += 1
    return Written(pictures, captions, shards)


def _add(shard: tarfile.TarFile, key: int, sample: Sample) -> None:
    """Add the two members of a picture."""
    content = content_of(sample)
    described = {
        "image": sample.image,
        "split": sample.split,
        "captions": [
            {"caption": caption.text, "language": caption.language, "prompt": caption.prompt, **caption.extra}
            for caption in sample.captions
        ],
    }
    text = json.dumps(described, ensure_ascii=False).encode()
    for ending, data in ((ending_of(sample.image, content), content), (".json", text)):
        member = tarfile.TarInfo(f"{key:09d}{ending}")  # owner and time are 0, the mode is 644
        member.size = len(data)
        shard.addfile(member, io.BytesIO(data))
