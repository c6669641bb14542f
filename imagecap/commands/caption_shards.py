"""`run.py caption` into a folder, by shard: as one of several workers, or on the machines of a Ray cluster."""

import argparse
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from imagecap.commands import positive, print_json
from imagecap.config.flags import settings_from_flags
from imagecap.errors import ImageCapError, require_package
from imagecap.printable import printable
from imagecap.signals import exit_status

if TYPE_CHECKING:
    from imagecap.generate.by_shard.job import ShardJob
    from imagecap.generate.by_shard.task import Task
    from imagecap.generate.by_shard.worker import Summary

_COUNTED_EVERY = 5.0  # seconds between two looks at what all workers have finished
_LISTED_EVERY = 60.0  # the same in a bucket
_LINE_EVERY = 60.0  # seconds between two lines of progress where there is no terminal


def add_shard_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of jobs by shard."""
    group = parser.add_argument_group(
        "by shard", "several workers, and an --output_file that is a folder with a file for each shard"
    )
    group.add_argument(
        "--worker", type=_share, metavar="I/N", help="be worker I, from 0, of N; start each with the same command"
    )
    group.add_argument(
        "--engine",
        choices=("process", "ray"),
        default="process",
        help="ray: caption on a Ray cluster, or on one that is started on this machine (default: process)",
    )
    group.add_argument(
        "--actors",
        type=positive,
        metavar="N",
        help="processes on the Ray cluster (default: one per GPU, or one per CPU core but one of each machine)",
    )
    group.add_argument(
        "--output_format", choices=("jsonl", "parquet"), help="format of the files in the folder (default: jsonl)"
    )
    group.add_argument(
        "--retry_errors", action="store_true", help="try once more what errors.jsonl in the folder names"
    )


def is_by_shard(arguments: argparse.Namespace) -> bool:
    """Whether the arguments ask for a job by shard.

    Raises:
        ImageCapError: they contradict each other.
    """
    by_shard = arguments.worker is not None or arguments.engine == "ray"
    for name in ("output_format", "retry_errors"):
        if getattr(arguments, name) and not by_shard:
            raise ImageCapError(f"--{name} is for jobs by shard: give --worker 0/1 or --engine ray as well")
    if arguments.actors and arguments.engine != "ray":
        raise ImageCapError("--actors is for --engine ray")
    if arguments.worker is not None and arguments.engine == "ray":
        raise ImageCapError("--worker is for jobs without an engine: Ray shares out the shards by itself")
    return by_shard


def run_by_shard(arguments: argparse.Namespace) -> None:
    """Caption the pictures of `--input` into a folder.

    Raises:
        ImageCapError: no pictures, no model, a folder of another job, or too many crashes.
        SystemExit: interrupted by a signal; the captions made so far are kept.
    """
    from imagecap.generate.by_shard.supervisor import supervise
    from imagecap.generate.by_shard.worker import Share, summary_of, to_retry

    folder = arguments.output_file
    if folder.suffix.lower() in (".jsonl", ".parquet", ".json"):
        raise ImageCapError(f"--output_file {folder} must be a folder: every shard gets a file of its own in it")
    if arguments.engine == "ray":
        require_package("ray")
    task = _task(arguments)
    job = task.open_job()
    if job.in_bucket and arguments.worker:
        print(
            f"captions go to {folder}, where a worker does not see what others are at: it keeps to its own share, and "
            "no two workers may have the same number",
            file=sys.stderr,
        )
    elif not job.locked:
        print(
            f"warning: the file system of {folder} has no locks: no two workers may have the same number",
            file=sys.stderr,
        )
    share = Share(*arguments.worker) if arguments.worker else Share()
    retried = to_retry(job, share) if arguments.retry_errors else []
    left = len(job.unfinished())
    if left < len(job.shards):
        print(f"{len(job.shards) - left:,} of {len(job.shards):,} shards were done before", file=sys.stderr)
    progress = Progress(job)
    try:
        if not left and not retried:
            pass
        elif arguments.engine == "ray":
            from imagecap.generate.by_shard.ray_engine import caption_on_ray

            caption_on_ray(task, job, retried, arguments.actors, progress.told)
        else:
            supervise(task, share, retried, progress.told)
    except KeyboardInterrupt as interrupt:
        progress.close()
        print("interrupted; the same command goes on", file=sys.stderr)
        raise SystemExit(exit_status(interrupt)) from None
    finally:
        progress.close()
    _tell(summary_of(job), folder, arguments.json)


def _task(arguments: argparse.Namespace) -> "Task":
    from imagecap.data.identity import folder_digest
    from imagecap.data.remote import RemotePath, is_url
    from imagecap.generate.by_shard.task import Task
    from imagecap.model.builder import captioner_config

    settings = settings_from_flags(arguments)
    captioner_config(arguments.model_path)  # a mistyped folder is reported before anything is written
    url, folder = is_url(arguments.input), arguments.output_file
    place = arguments.input if url else os.path.realpath(os.path.expanduser(arguments.input))  # noqa: PTH111
    return Task(
        source=arguments.input if url else str(arguments.input),
        folder=folder if isinstance(folder, RemotePath) else folder.absolute(),
        model_path=arguments.model_path.absolute(),
        settings=settings,
        description={
            "model": folder_digest(arguments.model_path),
            **settings.generate.model_dump(mode="json"),
            "input": printable(place),
        },
        output_format=arguments.output_format or "jsonl",
        batch_size=arguments.batch_size,
    )


class Progress:
    """Shows the shards that all workers together have finished, their rate, and the time that is left.

    On a terminal that is a bar; elsewhere it is a line every minute.
    """

    def __init__(self, job: "ShardJob") -> None:
        from tqdm import tqdm

        self._job = job
        self._began = self._counted = self._line = time.monotonic()
        self._before = self._finished = len(job.shards) - len(job.unfinished())
        self._pictures = 0
        self._bar = tqdm(
            total=len(job.shards), initial=self._finished, desc="captioning", unit="shard", disable=None,
            dynamic_ncols=True, smoothing=0,
        )  # fmt: skip

    def told(self, pictures: int) -> None:
        """Take note of pictures that were captioned here, and show the progress if it is time."""
        self._pictures += pictures
        now = time.monotonic()
        if now - self._counted < (_LISTED_EVERY if self._job.in_bucket else _COUNTED_EVERY):
            return
        self._counted = now
        self._finished = len(self._job.shards) - len(self._job.unfinished())
        self._bar.set_postfix_str(f"{self._pictures / (now - self._began):.1f} pictures/s here", refresh=False)
        self._bar.update(self._finished - self._bar.n)
        if self._bar.disable and now - self._line >= _LINE_EVERY:
            self._line = now
            meter = self._bar.format_meter(
                self._finished, len(self._job.shards), now - self._began, ncols=0, unit="shard", initial=self._before,
                postfix=f"{self._pictures / (now - self._began):.1f} pictures/s here",
            )  # fmt: skip
            print(f"captioning: {meter}", file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it is at the end."""
        self._bar.update(len(self._job.shards) - len(self._job.unfinished()) - self._bar.n)
        self._bar.close()


def _tell(summary: "Summary", folder: Path, as_json: bool) -> None:
    if summary.pictures and not summary.captioned and not summary.left:
        raise ImageCapError(
            f"none of the {summary.failed:,} pictures could be read; the errors in {folder} hold the reasons"
        )
    if as_json:
        print_json(
            {
                "output_folder": str(folder),
                "shards": summary.shards,
                "finished": summary.finished,
                "given_up": summary.given_up,
                "left": summary.left,
                "pictures": summary.pictures,
                "captioned": summary.captioned,
                "failed": summary.failed,
            }
        )
        return
    print(
        f"{summary.finished:,} of {summary.shards:,} shards are finished: {summary.pictures:,} pictures, "
        f"{summary.captioned:,} captioned, {summary.failed:,} failed: {folder}"
    )
    if summary.given_up:
        print(f"{summary.given_up:,} shards could not be read; errors.jsonl holds the reasons")
    if summary.left:
        print(f"{summary.left:,} shards are left; other workers are at them, or else the same command goes on")


def _share(text: str) -> tuple[int, int]:
    """`I/N` as two numbers, as the `type` of an argument."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not int(match[1]) < int(match[2]):
        raise argparse.ArgumentTypeError(f"must be I/N with I from 0 to N - 1, such as 0/2, not {text}")
    return int(match[1]), int(match[2])
