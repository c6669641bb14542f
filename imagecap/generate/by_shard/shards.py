"""The shards of a job: what one worker captions at a time, and what has an output file of its own."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from imagecap.config import DataSettings
from imagecap.data.identity import file_status
from imagecap.errors import ImageCapError
from imagecap.generate.inputs import pictures_of, shards_of
from imagecap.generate.pictures import Picture, Pictures, Selected
from imagecap.printable import printable

BLOCK_PICTURES = 1000
"""Loose pictures in a shard at most."""

_LEAST_BLOCK = 32
_BLOCKS = 100  # at least so many, if there are pictures enough: all workers of a small job shall have something to do

_RESERVED = ("errors",)  # names of other files of the output folder


@dataclass(frozen=True)
class Shard:
    """A tar or Parquet file with pictures, or a block of loose pictures.

    Attributes:
        name: the path of its output in the output folder, without the ending.
        file: the file; None for a block.
        block: the numbers of the pictures of a block.
    """

    name: str
    file: Path | None = None
    block: range = range(0)

    def __str__(self) -> str:
        return str(self.file) if self.file else self.name


class ShardedInput:
    """The input of a job, cut into shards.

    Shards that are tar or Parquet files can be added between two runs. Loose pictures are cut into blocks of
    consecutive names, so that the same pictures always give the same blocks.

    Args:
        source: see `pictures_of`.
        settings: see `pictures_of`.

    Raises:
        ImageCapError: `source` does not exist, has no pictures, or two of its files would have the same name.

    Attributes:
        shards: in a fixed order.
        pictures_digest: of the names of loose pictures; None for files.
    """

    def __init__(self, source: str, settings: DataSettings) -> None:
        self._settings = settings
        self._source = shards_of(source, settings)
        self._loose: Sequence[Picture] = ()
        self.pictures_digest: str | None = None
        if self._source is not None:
            self.shards = _file_shards(self._source.folder, self._source.files)
            return
        loose = pictures_of(source, settings)
        digest = hashlib.sha256()
        for name in loose.names:
            digest.update(f"{name}\n".encode())
        self._loose, self.pictures_digest = loose, digest.hexdigest()
        size = min(BLOCK_PICTURES, max(_LEAST_BLOCK, -(-len(loose) // _BLOCKS)))
        starts = range(0, len(loose), size)
        self.shards = [
            Shard(f"pictures-{number:06d}", block=range(start, min(start + size, len(loose))))
            for number, start in enumerate(starts)
        ]

    def pictures(self, shard: Shard) -> Sequence[Picture]:
        """The pictures of a shard, always in the same order. A shard in a bucket should be `copied` before.

        Raises:
            ImageCapError: the shard is damaged or cannot be read.
        """
        if shard.file is None:
            return Selected(self._loose, shard.block)
        assert self._source is not None
        return Pictures(replace(self._source, files=[shard.file]).pictures(self._settings), rename=True)

    def state(self, shard: Shard) -> str:
        """A text that differs if the pictures of a shard, or their order, may have changed.

        Raises:
            ImageCapError: the shard cannot be read.
        """
        if shard.file is None:
            return f"{self.pictures_digest} {shard.block.start} {shard.block.stop}"
        try:
            return file_status(shard.file)
        except OSError as error:
            raise ImageCapError(f"{shard.file} cannot be read: {error.strerror}") from None


def _file_shards(folder: Path, files: Sequence[Path]) -> list[Shard]:
    """Shards named by the paths of their files without the endings; with them where two would be the same."""
    stems = [file.relative_to(folder).with_suffix("").as_posix() for file in files]
    count = Counter(stem.casefold() for stem in stems)
    count.update(_RESERVED)
    return [
        Shard(printable(stem if count[stem.casefold()] == 1 else f"{stem}{file.suffix}"), file)
        for stem, file in zip(stems, files, strict=True)
    ]
