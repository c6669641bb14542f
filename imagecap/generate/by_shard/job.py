"""A job by shard: its folder, and how one worker captions one shard of it.

The output of a shard appears under its final name when it is complete and on the disk (fsync, rename). Until then its
rows are in a `ShardJournal` beside it. A lock keeps other workers from the shard. So every picture has one row,
whichever processes are killed, and a finished output is not written again.

Outputs may go to a bucket, each as a whole (one put). Journals and locks are then in a folder of this machine, and
other machines cannot see them.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

from imagecap.data.remote import RemotePath, copied
from imagecap.errors import ImageCapError
from imagecap.files import atomic_write_json, read_json, user_cache_folder
from imagecap.generate.by_shard.error_list import ErrorList, Errors, ErrorsInBucket
from imagecap.generate.by_shard.journal import ShardJournal, write_journal
from imagecap.generate.by_shard.output import read_rows, write_rows
from imagecap.generate.by_shard.shards import Shard, ShardedInput
from imagecap.generate.journal import JournalRow
from imagecap.generate.pictures import Picture, Selected
from imagecap.locks import HeldError, exclusive, has_locks

Captioner: TypeAlias = Callable[[Sequence[Picture]], Iterable[Sequence[JournalRow]]]
"""Captions pictures in order and yields the rows of a batch; see `caption_rows`."""

Format: TypeAlias = Literal["jsonl", "parquet"]
Outcome: TypeAlias = Literal["finished", "held", "failed"]

MOST_ENDINGS = 2
"""A picture is given up when a process has ended so often while it was alone in it."""

_MOST_OPENINGS = 3  # a shard is given up when so many processes have ended before its pictures were listed

JOB_FILE = "job.json"
ERROR_FOLDER = "errors"  # in a bucket


@dataclass(frozen=True)
class Done:
    """What `ShardJob.caption` did.

    Attributes:
        outcome: "finished": the shard has its output, perhaps from before; "held": another process is at it; "failed":
            it cannot be read.
        reason: of a failure.
    """

    outcome: Outcome
    reason: str = ""


class ShardJob:
    """A job that captions the shards of an input into a folder.

    Args:
        folder: of the output, on a disk or in a bucket.
        pictures: the input.
        description: of the job, such as model and settings. A job goes on only if its description is the same.
        output_format: "jsonl" or "parquet".

    Attributes:
        in_bucket: whether the outputs are in a bucket.
        locked: whether the file system of the journals has locks; known after `begin`.
    """

    def __init__(
        self, folder: Path, pictures: ShardedInput, description: Mapping[str, Any], output_format: Format = "jsonl"
    ) -> None:
        self.folder = folder
        self.input = pictures
        self.shards = pictures.shards
        self.in_bucket = isinstance(folder, RemotePath)
        self.locked = True
        self._work = job_folder(folder)  # of journals and locks
        self._format = output_format
        self._description = {**description, "output_format": output_format, "loose": pictures.pictures_digest}

    def begin(self) -> None:
        """Make the folder and write down what is captioned into it, or compare it with the job that did.

        Raises:
            ImageCapError: the folder is that of another job, or holds captions of no job, or cannot be written; or a
                shard has the name of the folder for errors in a bucket.
        """
        clashing = [shard for shard in self.shards if self.in_bucket and shard.name.startswith(f"{ERROR_FOLDER}/")]
        if clashing:
            raise ImageCapError(
                f"{clashing[0]}: {self.folder / ERROR_FOLDER} is for the errors of the job; give the folder of the "
                "shard another name, or write to a folder on a disk"
            )
        if self.folder.exists() and not self.folder.is_dir():
            raise ImageCapError(f"{self.folder} is a file; with shards, --output_file names a folder")
        try:
            self._work.mkdir(parents=True, exist_ok=True)
            self.locked = has_locks(self._work)
        except OSError as error:
            raise ImageCapError(f"{self._work} cannot be written: {error.strerror}") from None
        file = self.folder / JOB_FILE
        with self._exclusive(self._work / JOB_FILE, wait=True):
            if not file.exists():
                if any(each.suffix == f".{self._format}" for each in self._files()):
                    raise ImageCapError(f"{self.folder} has files that no caption job made; choose another folder")
                atomic_write_json(self._work / JOB_FILE, self._description)
                self._publish(self._work / JOB_FILE)
                return
            known = read_json(file)
        differing = [name for name in self._description if known.get(name) != self._description[name]]
        if differing == ["loose"] and self.input.pictures_digest and known["loose"]:
            raise ImageCapError(
                f"{self.folder} was made of other pictures: some have been added to --input or removed since; choose "
                "another folder, or pack pictures as shards, to which more can be added"
            )
        if differing:
            name = differing[0]
            raise ImageCapError(
                f"{self.folder} was made by another job ({name} was {known.get(name)}, now {self._description[name]}); "
                "choose another --output_file, or remove it to start anew"
            )

    @property
    def takes_over(self) -> bool:
        """Whether a worker can see what others are at, and so may take shards of theirs."""
        return self.locked and not self.in_bucket

    @property
    def errors(self) -> Errors:
        """The list of pictures and shards that failed twice."""
        if isinstance(self.folder, RemotePath):
            return ErrorsInBucket(self.folder / ERROR_FOLDER, self._work)
        return ErrorList(self.folder / "errors.jsonl", locked=self.locked)

    def output(self, shard: Shard) -> Path:
        """The output file of a shard."""
        return self.folder / f"{shard.name}.{self._format}"

    def finished(self) -> list[Shard]:
        """The shards with an output."""
        if not self.in_bucket:
            return [shard for shard in self.shards if self.output(shard).exists()]
        there = set(self._files())  # asked for at once
        return [shard for shard in self.shards if self.output(shard) in there]

    def unfinished(self) -> list[Shard]:
        """The shards without an output, but those that have been given up."""
        done = self.errors.shards() | {shard.name for shard in self.finished()}
        return [shard for shard in self.shards if shard.name not in done]

    def caption(
        self, shard: Shard, captioner: Captioner, told: Callable[[int], None] = lambda _: None, *, again: bool = False
    ) -> Done:
        """Caption a shard, or go on with it where another process has left it.

        Args:
            shard: one of `shards`.
            captioner: captions pictures. An exception that it raises counts as the end of the process.
            told: is called with the number of pictures after each batch.
            again: caption the pictures of a finished shard that have errors once more.

        Raises:
            ImageCapError: the output cannot be written.
        """
        local = self._local(shard)
        local.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._exclusive(local):
                if self.output(shard).exists() and not again:
                    return Done("finished")
                return self._caption(shard, captioner, told, again=again)
        except HeldError:
            return Done("held")

    def give_up(self, shard: Shard, reason: str) -> None:
        """Put a shard that failed twice on the list of errors."""
        self.errors.replace(shard.name, [{"shard": shard.name, "error": reason}])
        self._journal_path(shard).unlink(missing_ok=True)

    def take_up_failed_shards(self, shards: Iterable[Shard]) -> None:
        """Take shards that were given up from the list of errors, so that they are captioned again."""
        given_up = self.errors.shards()
        for shard in shards:
            if shard.name in given_up:
                self.errors.replace(shard.name, [])

    def _caption(self, shard: Shard, captioner: Captioner, told: Callable[[int], None], *, again: bool) -> Done:
        try:
            state = self.input.state(shard)
        except ImageCapError as error:
            return Done("failed", str(error))
        if again:
            self._reopen(shard, state)
        with closing(ShardJournal(self._journal_path(shard), state)) as journal, ExitStack() as copies:
            if journal.openings >= _MOST_OPENINGS:
                self.give_up(shard, f"the process ended {journal.openings} times while it opened {shard}")
                return Done("finished")
            try:
                try:
                    if shard.file is not None:
                        copies.enter_context(copied(shard.file))
                    pictures = self.input.pictures(shard)
                except ImageCapError as error:
                    journal.stop()
                    return Done("failed", str(error))
                journal.listed(len(pictures))
                self._caption_pictures(journal, pictures, captioner, told)
                self._commit(shard, journal, again=again)
            except (KeyboardInterrupt, ImageCapError, OSError):
                journal.stop()  # no picture is to blame
                raise
        return Done("finished")

    def _caption_pictures(
        self, journal: ShardJournal, pictures: Sequence[Picture], captioner: Captioner, told: Callable[[int], None]
    ) -> None:
        def add(numbers: Sequence[int], chosen: Sequence[Picture], count: bool = True) -> None:
            left = iter(numbers)
            for rows in captioner(chosen):
                journal.add(list(islice(left, len(rows))), rows)
                if count:
                    told(len(rows))

        todo = [number for number in range(len(pictures)) if not journal.is_done(number)]
        others = [number for number in todo if number not in journal.suspects]
        if others:
            add(others, _Noted(pictures, others, journal))
        for number in (number for number in todo if number in journal.suspects):
            if journal.endings[number] >= MOST_ENDINGS:
                reason = f"the process ended {journal.endings[number]} times while it captioned this picture alone"
                journal.add([number], [{"image": pictures[number][0], "error": reason}])
                continue
            journal.alone(number)
            add([number], Selected(pictures, [number]))
        # What failed because of a disk or a network may be readable by now.
        failed = [number for number in journal.failed if journal.endings[number] < MOST_ENDINGS]
        if failed:
            add(failed, Selected(pictures, failed), count=False)

    def _commit(self, shard: Shard, journal: ShardJournal, *, again: bool) -> None:
        """Write the output of a shard. Its errors are listed first: a shard with an output is not looked at again."""
        failed = set(journal.failed)
        errors = [
            {"shard": shard.name, "image": row["image"], "error": row["error"]}
            for number, row in enumerate(journal.rows())
            if number in failed
        ]
        if journal.errors_listed:
            self.errors.replace(shard.name, errors)
        elif errors:
            journal.errors_are_listed()
            self.errors.add(errors)
        # into a bucket, a worker of the same number on another machine may have put it meanwhile
        if again or not (self.in_bucket and self.output(shard).exists()):
            write_rows(self._local(shard), journal.rows())
            self._publish(self._local(shard))
        journal.remove()

    def _reopen(self, shard: Shard, state: str) -> None:
        """Make a journal of a finished output, with all rows but errors; the output stays until it is replaced."""
        path, output = self._journal_path(shard), self.output(shard)
        if path.exists() or not output.exists():
            return
        rows = list(enumerate(read_rows(output)))
        write_journal(path, state, len(rows), ((number, row) for number, row in rows if "error" not in row))

    def _local(self, shard: Shard) -> Path:
        """The output file of a shard on this machine, from where it goes to a bucket."""
        return self._work / f"{shard.name}.{self._format}"

    def _publish(self, local: Path) -> None:
        """Put a file of this machine into the bucket, if the outputs are in one."""
        if isinstance(self.folder, RemotePath):
            (self.folder / local.relative_to(self._work)).put(local)
            local.unlink()

    def _files(self) -> Iterable[Path]:
        """The files in the folder, in a bucket also those in folders below."""
        return self.folder.files_below(None) if isinstance(self.folder, RemotePath) else self.folder.iterdir()

    def _journal_path(self, shard: Shard) -> Path:
        local = self._local(shard)
        return local.with_name(f".{local.name}.journal")

    def _exclusive(self, file: Path, *, wait: bool = False) -> AbstractContextManager[None]:
        if not self.locked:
            return nullcontext()
        return exclusive(file.with_name(f".{file.name}.lock"), f"the captioning of {file}", wait)


def job_folder(folder: Path) -> Path:
    """Where journals and locks of a job are: in its folder, or for one in a bucket in the user's cache folder.

    Raises:
        ImageCapError: the user has no folder for a cache.
    """
    if not isinstance(folder, RemotePath):
        return folder
    try:
        cache = user_cache_folder()
    except RuntimeError as error:
        raise ImageCapError(f"journals of captions for {folder} have no place: {error}; set XDG_CACHE_HOME") from None
    return cache / "caption-jobs" / hashlib.sha256(str(folder).encode()).hexdigest()[:16]


class _Noted(Selected):
    """Pictures whose reading is noted in a journal before it begins."""

    def __init__(self, pictures: Sequence[Picture], numbers: Sequence[int], journal: ShardJournal) -> None:
        super().__init__(pictures, numbers)
        self._journal = journal

    def _picture(self, index: int) -> Picture:
        self._journal.reading(self._numbers[index])
        return super()._picture(index)
