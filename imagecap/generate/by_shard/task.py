"""What a worker of a job by shard needs to know; processes and machines send it to each other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagecap.config import Settings
from imagecap.generate.by_shard.job import JOB_FILE, Captioner, Format, ShardJob
from imagecap.generate.by_shard.shards import ShardedInput
from imagecap.generate.journal import JournalRow
from imagecap.generate.pictures import Picture


@dataclass(frozen=True)
class Task:
    """A job by shard, as text and numbers.

    Attributes:
        source: the input; see `pictures_of`.
        folder: of the output, on a disk or in a bucket.
        model_path: folder of the model.
        settings: their sections `data`, `generate` and `compute` are used.
        description: of the job; see `ShardJob`.
        output_format: "jsonl" or "parquet".
        batch_size: pictures captioned at once.
    """

    source: str
    folder: Path
    model_path: Path
    settings: Settings
    description: Mapping[str, Any]
    output_format: Format = "jsonl"
    batch_size: int = 32

    @property
    def job_file(self) -> Path:
        """The file that describes the job in the output folder."""
        return self.folder / JOB_FILE

    def open_job(self) -> ShardJob:
        """List the input and begin the job; see `ShardedInput` and `ShardJob.begin` for what they raise."""
        job = ShardJob(self.folder, ShardedInput(self.source, self.settings.data), self.description, self.output_format)
        job.begin()
        return job

    def open_captioner(self) -> Captioner:
        """Load the model.

        Raises:
            ImageCapError: it cannot be read.
        """
        from imagecap.generate.bulk import caption_rows
        from imagecap.generate.captioner import open_captioner

        model = open_captioner(self.model_path, self.settings.compute)

        def caption(pictures: Sequence[Picture]) -> Iterator[list[JournalRow]]:
            return caption_rows(model, pictures, self.settings, self.batch_size)

        return caption
