"""Jobs over shards with small pictures, whose captioner is a stub."""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from imagecap.config import DataSettings
from imagecap.generate.by_shard.job import Captioner, ShardJob
from imagecap.generate.by_shard.output import read_rows
from imagecap.generate.by_shard.shards import ShardedInput
from imagecap.generate.journal import JournalRow
from imagecap.generate.pictures import Picture
from tests.data.layouts import write_tar

PICTURES = 8  # in a shard
BATCH = 3


def content(seed: int) -> bytes:
    from tests.tiny import picture  # it imports torch, which a stub does without

    file = io.BytesIO()
    picture(seed, (8, 8)).save(file, "png")
    return file.getvalue()


def write_shard(file: Path, number: int) -> None:
    names = (f"{number:02d}-{index}.png" for index in range(PICTURES))
    write_tar(file, *((name, content(index)) for index, name in enumerate(names)))


def captioner(before: Callable[[str], object] = lambda _: None, failing: Sequence[str] = ()) -> Captioner:
    """A stub that captions in batches, reads one batch ahead, and calls `before` with the name of each picture.

    Args:
        before: may end the process.
        failing: parts of names of pictures that cannot be read.
    """

    def caption(pictures: Sequence[Picture]) -> Iterator[list[JournalRow]]:
        ahead: list[list[str]] = []
        for start in range(0, len(pictures), BATCH):
            batch = range(start, min(start + BATCH, len(pictures)))
            ahead.append([pictures[index][0] for index in batch])
            if len(ahead) > 1:
                yield rows(ahead.pop(0))
        for names in ahead:
            yield rows(names)

    def rows(names: list[str]) -> list[JournalRow]:
        for name in names:
            before(name)
        return [
            {"image": name, **({"error": "broken"} if any(part in name for part in failing) else {"caption": name})}
            for name in names
        ]

    return caption


def open_job(shards: Path, folder: Path, **options: str) -> ShardJob:
    job = ShardJob(folder, ShardedInput(str(shards), DataSettings()), {"model": "a"}, **options)
    job.begin()
    return job


def images(job: ShardJob) -> list[str]:
    """The names in all outputs, in the order of the shards."""
    return [row["image"] for shard in job.shards if job.output(shard).exists() for row in read_rows(job.output(shard))]


def expected(job: ShardJob) -> list[str]:
    return [name for shard in job.shards for name, _ in job.input.pictures(shard)]


def times(job: ShardJob) -> dict[Path, int]:
    outputs = map(job.output, job.shards)
    return {output: output.stat().st_mtime_ns for output in outputs if output.exists()}
