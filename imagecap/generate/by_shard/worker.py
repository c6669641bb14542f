"""One of several workers on a job by shard, without an engine: its own share of the shards first, then what is left."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from imagecap.generate.by_shard.job import Captioner, ShardJob
from imagecap.generate.by_shard.output import count_rows
from imagecap.generate.by_shard.shards import Shard


@dataclass(frozen=True)
class Share:
    """Which of the workers of a job this one is.

    Attributes:
        worker: its number, from 0.
        workers: how many there are.
    """

    worker: int = 0
    workers: int = 1

    def of(self, shards: Sequence[Shard]) -> list[Shard]:
        """The shards of this worker."""
        return list(shards[self.worker :: self.workers])


def work(job: ShardJob, captioner: Captioner, share: Share, told: Callable[[int], None] = lambda _: None) -> None:
    """Caption shards until none is left that no other process is at.

    A shard that cannot be read is tried once more at the end and then given up. Where the file system has no locks, or
    the outputs are in a bucket, a worker keeps to its own share.

    Args:
        job: has begun.
        captioner: see `ShardJob.caption`.
        share: of this worker.
        told: is called with the number of pictures after each batch.

    Raises:
        ImageCapError: an output cannot be written.
    """
    own = share.of(job.shards)
    others = [shard for number in range(1, share.workers) for shard in _share_of_other(job, share, number)]
    failed: list[Shard] = []
    for shard in _unfinished(job, own + (others if job.takes_over else [])):
        if job.caption(shard, captioner, told).outcome == "failed":
            failed.append(shard)
    for shard in failed:
        done = job.caption(shard, captioner, told)
        if done.outcome == "failed":
            job.give_up(shard, done.reason)


def to_retry(job: ShardJob, share: Share) -> list[Shard]:
    """The finished shards of a share that have errors. Shards that were given up are unfinished from now on."""
    own = share.of(job.shards)
    job.take_up_failed_shards(own)
    failed, finished = job.errors.pictures(), {shard.name for shard in job.finished()}
    return [shard for shard in own if failed[shard.name] and shard.name in finished]


def _unfinished(job: ShardJob, shards: Sequence[Shard]) -> list[Shard]:
    """Those of the shards that are unfinished now, in the order given."""
    unfinished = {shard.name for shard in job.unfinished()}
    return [shard for shard in shards if shard.name in unfinished]


def _share_of_other(job: ShardJob, share: Share, distance: int) -> list[Shard]:
    """The share of another worker from its end: the other one begins at the beginning."""
    return Share((share.worker + distance) % share.workers, share.workers).of(job.shards)[::-1]


@dataclass(frozen=True)
class Summary:
    """What a job has done so far.

    Attributes:
        shards: their number.
        finished: shards with an output.
        given_up: shards that could not be captioned.
        pictures: rows of all outputs.
        failed: those of them with an error.
    """

    shards: int
    finished: int
    given_up: int
    pictures: int
    failed: int

    @property
    def captioned(self) -> int:
        """Pictures with a caption."""
        return self.pictures - self.failed

    @property
    def left(self) -> int:
        """Shards that are still to be captioned, or are being captioned."""
        return self.shards - self.finished - self.given_up


def summary_of(job: ShardJob) -> Summary:
    """Count the rows of all outputs of a job."""
    failed, given_up = job.errors.pictures(), job.errors.shards()
    finished = job.finished()
    names = {shard.name for shard in finished}
    return Summary(
        shards=len(job.shards),
        finished=len(finished),
        given_up=len({shard.name for shard in job.shards} & given_up - names),
        pictures=sum(count_rows(job.output(shard)) for shard in finished),
        failed=sum(failed[name] for name in names),
    )
