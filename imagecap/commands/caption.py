"""`run.py caption`: caption any number of pictures into a file; continues where it was interrupted."""

import argparse
import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from imagecap.commands import add_json, add_model_path, positive, print_json
from imagecap.commands.caption_shards import add_shard_arguments, is_by_shard, run_by_shard
from imagecap.config import Settings
from imagecap.config.flags import add_flags, settings_from_flags
from imagecap.data.remote import RemotePath, is_url, path_or_url
from imagecap.errors import ImageCapError
from imagecap.files import require_writable_file
from imagecap.locks import exclusive
from imagecap.printable import printable
from imagecap.signals import exit_status

if TYPE_CHECKING:
    from imagecap.data.locations import Location
    from imagecap.generate.journal import Journal, JournalRow
    from imagecap.generate.pictures import Picture
    from imagecap.generate.resume import Remaining

FORMATS = (".jsonl", ".parquet", ".json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_model_path(parser)
    parser.add_argument(
        "--input",
        required=True,
        metavar="PATH",
        help="a folder, a pattern in quotes, a list (.txt), a captions file or shard in any format, the URL of a "
        "shard or of a folder with shards (s3://...), or a picture",
    )
    parser.add_argument(
        "--output_file",
        required=True,
        type=path_or_url,
        metavar="FILE",
        help="ends in .jsonl, .parquet or .json; by shard: a folder, on a disk or in a bucket (s3://...)",
    )
    parser.add_argument(
        "--batch_size", type=positive, default=32, metavar="N", help="pictures captioned at once (default: 32)"
    )
    add_json(parser)
    add_shard_arguments(parser)
    add_flags(parser, ("generate", "compute"))


def run(arguments: argparse.Namespace) -> None:
    """Caption every picture of `--input` (see `pictures_of`) into `--output_file`.

    `.jsonl` and `.parquet` get a row per picture: `image`, `caption`, `score`, `tokens`, and `others` where there are
    more captions; a picture that cannot be read has `error` instead. `.json` becomes a captions.json to correct by
    hand and train on. Rows are written after every batch; after an interruption the same command continues. With
    `.jsonl` it also captions the pictures that were added since.

    Raises:
        ImageCapError: no pictures, none that can be read, no model, another kind of file, or an output of another job.
        SystemExit: interrupted by a signal; the captions made so far are kept.
    """
    if is_by_shard(arguments):
        run_by_shard(arguments)
        return
    settings = settings_from_flags(arguments)
    model_path, output_file = arguments.model_path, arguments.output_file
    if isinstance(output_file, RemotePath):
        raise ImageCapError(
            f"--output_file {output_file} is in a bucket, where rows cannot be appended: give --worker 0/1 as well, "
            "which writes a file for each shard"
        )
    kind = output_file.suffix.lower()
    if kind not in FORMATS:
        raise ImageCapError(f"--output_file {output_file} must end in {', '.join(FORMATS)}")
    if kind != ".jsonl" and output_file.exists():
        raise ImageCapError(f"{output_file} is there already; choose another --output_file or remove it")
    from imagecap.data.identity import folder_digest
    from imagecap.generate.inputs import pictures_of
    from imagecap.generate.journal import Journal
    from imagecap.generate.resume import remaining
    from imagecap.model.builder import captioner_config

    captioner_config(model_path)  # a mistyped folder is reported before anything is written
    pictures = pictures_of(arguments.input, settings.data)
    url = is_url(arguments.input)
    place = arguments.input if url else os.path.realpath(os.path.expanduser(arguments.input))  # noqa: PTH111
    source = printable(place)
    journal_file = output_file if kind == ".jsonl" else output_file.with_name(f"{output_file.name}.part.jsonl")
    require_writable_file(output_file)
    with exclusive(journal_file.with_name(f".{journal_file.name}.lock"), f"a caption job into {output_file}"):
        journal = Journal(journal_file, {"model": folder_digest(model_path), **settings.generate.model_dump()})
        left = remaining(journal, pictures, source, settings.data.max_image_pixels)
        journal.open(source)
        _tell(left, len(pictures))
        if left.pictures:
            _caption(settings, model_path, left.pictures, journal, arguments.batch_size)
        journal.compact()
        captioned, failed = _finish(journal, output_file, settings, model_path)
    if captioned == 0:
        if kind == ".json":
            output_file.unlink()  # it is empty, and the same command shall work when the pictures can be read
        where = "the reasons are above" if kind == ".json" else f"{output_file} holds the reasons"
        raise ImageCapError(f"none of the {failed:,} pictures could be read; {where}")
    if arguments.json:
        print_json({"output_file": str(output_file), "captioned": captioned, "failed": failed})
    else:
        print(f"{captioned:,} pictures captioned, {failed:,} could not be read: {output_file}")


def _tell(left: "Remaining", pictures: int) -> None:
    """Say what of the job was done before."""
    for count, sentence in (
        (left.done, f"{left.done:,} of {pictures:,} pictures were done before"),
        (left.changed, f"{left.changed:,} of them have changed since, and are captioned again"),
        (left.readable, f"{left.readable:,} of them could not be read then, and can now"),
        (left.gone, f"{left.gone:,} earlier rows are of pictures that --input does not have now; they are kept"),
    ):
        if count:
            print(sentence, file=sys.stderr)


def _caption(
    settings: Settings, model_path: Path, left: "Sequence[Picture]", journal: "Journal", batch_size: int
) -> None:
    from tqdm import tqdm

    from imagecap.generate.bulk import caption_rows
    from imagecap.generate.captioner import open_captioner
    from imagecap.generate.resume import readable

    model = open_captioner(model_path, settings.compute)
    failed: dict[str, Location] = {}
    places = iter(left)  # rows come in the order of the pictures
    with tqdm(total=len(left), desc="captioning", unit="picture", disable=None, dynamic_ncols=True) as bar:
        try:
            for rows in caption_rows(model, left, settings, batch_size):
                journal.add(rows)
                failed |= dict(
                    picture for picture, row in zip(islice(places, len(rows)), rows, strict=True) if "error" in row
                )
                bar.set_postfix_str(f"{len(failed)} unreadable" if failed else "", refresh=False)
                bar.update(len(rows))
            # What failed because of a disk or a network may be readable by now.
            again = readable(list(failed.items()), settings.data.max_image_pixels)
            for rows in caption_rows(model, again, settings, batch_size):
                journal.add(rows)
        except KeyboardInterrupt as interrupt:
            journal.close()
            bar.close()
            print(f"interrupted after {bar.n:,} of {len(left):,} pictures; the same command goes on", file=sys.stderr)
            raise SystemExit(exit_status(interrupt)) from None


def _finish(journal: "Journal", output_file: Path, settings: Settings, model_path: Path) -> tuple[int, int]:
    """Write the output file from the journal, unless it is the journal; count captioned and unreadable pictures."""
    from imagecap.generate.export import write_captions, write_parquet
    from imagecap.generate.prompts import prompt_language
    from imagecap.model.builder import captioner_info

    journal.close()
    counts = [0, 0]
    kind = output_file.suffix.lower()

    def counted() -> "Iterator[JournalRow]":
        for row in journal.rows():
            counts["error" in row] += 1
            if kind == ".json" and "error" in row:
                print(f"left out: {row['image']}: {row['error']}", file=sys.stderr)
            yield row

    rows = counted()
    if kind == ".json":
        write_captions(output_file, rows, prompt_language(captioner_info(model_path), settings.generate))
    elif kind == ".parquet":
        write_parquet(output_file, rows)
    else:
        deque(rows, maxlen=0)
    if kind != ".jsonl":
        journal.remove()
    return counts[0], counts[1]
