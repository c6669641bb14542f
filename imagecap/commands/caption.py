"""`run.py caption`: caption any number of pictures into a file; continues where it was interrupted."""

import argparse
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imagecap.commands import add_json, add_model_path, print_json
from imagecap.config import Settings
from imagecap.config.flags import add_flags, settings_from_flags
from imagecap.errors import EXIT_INTERRUPTED, ImageCapError, require_package
from imagecap.files import atomic_write_json
from imagecap.languages import language_of
from imagecap.locks import exclusive

if TYPE_CHECKING:
    from imagecap.generate.inputs import Picture
    from imagecap.generate.journal import Journal, JournalRow

FORMATS = (".jsonl", ".parquet", ".json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_model_path(parser)
    parser.add_argument(
        "--input",
        required=True,
        metavar="PATH",
        help="a folder, a pattern in quotes, a list (.txt), a captions.json, or a picture",
    )
    parser.add_argument(
        "--output_file", required=True, type=Path, metavar="FILE", help="ends in .jsonl, .parquet or .json"
    )
    parser.add_argument(
        "--batch_size", type=_positive, default=32, metavar="N", help="pictures captioned at once (default: 32)"
    )
    add_json(parser)
    add_flags(parser, ("generate", "compute"))


def run(arguments: argparse.Namespace) -> None:
    """Caption every picture of `--input` (see `pictures_of`) into `--output_file`.

    `.jsonl` and `.parquet` get a row per picture: `image`, `caption`, `score`, `tokens`, and `others` where there are
    more captions; a picture that cannot be read has `error` instead. `.json` becomes a captions.json to correct by
    hand and train on. Rows are written after every batch; after an interruption the same command continues. With
    `.jsonl` it also captions the pictures that were added since.

    Raises:
        ImageCapError: no pictures, none that can be read, no model, another kind of file, or an output of another job.
        SystemExit: interrupted (`EXIT_INTERRUPTED`); the captions made so far are kept.
    """
    settings = settings_from_flags(arguments)
    model_path, output_file = arguments.model_path, arguments.output_file
    kind = output_file.suffix.lower()
    if kind not in FORMATS:
        raise ImageCapError(f"--output_file {output_file} must end in {', '.join(FORMATS)}")
    if kind == ".parquet":
        require_package("pandas")
    if kind != ".jsonl" and output_file.exists():
        raise ImageCapError(f"{output_file} is there already; choose another --output_file or remove it")
    from imagecap.data.identity import folder_digest
    from imagecap.generate.inputs import pictures_of
    from imagecap.generate.journal import Journal
    from imagecap.model.builder import captioner_config

    captioner_config(model_path)  # a mistyped folder is reported before anything is written
    pictures = pictures_of(arguments.input)
    journal_file = output_file if kind == ".jsonl" else output_file.with_name(f"{output_file.name}.part.jsonl")
    try:
        output_file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageCapError(f"{output_file} cannot be written: {error.strerror}") from None
    with exclusive(_lock_of(journal_file), f"a caption job into {output_file}"):
        job = {"model": folder_digest(model_path), **settings.generate.model_dump()}
        journal = Journal(journal_file, job)
        left = [picture for picture in pictures if picture[0] not in journal.done]
        if len(left) < len(pictures):
            print(f"{len(pictures) - len(left):,} of {len(pictures):,} pictures were done before", file=sys.stderr)
        if left:
            _caption(settings, model_path, left, journal, arguments.batch_size)
        captioned, failed = _finish(journal, output_file)
    if captioned == 0:
        if kind == ".json":
            output_file.unlink()  # it is empty, and the same command shall work when the pictures can be read
        where = "the reasons are above" if kind == ".json" else f"{output_file} holds the reasons"
        raise ImageCapError(f"none of the {failed:,} pictures could be read; {where}")
    if arguments.json:
        print_json({"output_file": str(output_file), "captioned": captioned, "failed": failed})
    else:
        print(f"{captioned:,} pictures captioned, {failed:,} could not be read: {output_file}")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text}")
    return int(text)


def _lock_of(file: Path) -> Path:
    """The lock file of a job; it is not beside the output, where the user would find it."""
    name = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"imagecap-{os.getuid()}-{name}.lock"


def _caption(
    settings: Settings, model_path: Path, left: "Sequence[Picture]", journal: "Journal", batch_size: int
) -> None:
    from tqdm import tqdm

    from imagecap.generate.bulk import caption_rows
    from imagecap.generate.captioner import open_captioner

    model = open_captioner(model_path, settings.compute)
    failed = 0
    with tqdm(total=len(left), desc="captioning", unit="picture", disable=None, dynamic_ncols=True) as bar:
        try:
            for rows in caption_rows(model, left, settings, batch_size):
                journal.add(rows)
                failed += sum("error" in row for row in rows)
                bar.set_postfix_str(f"{failed} unreadable" if failed else "", refresh=False)
                bar.update(len(rows))
        except KeyboardInterrupt:
            journal.close()
            bar.close()
            print(f"interrupted after {bar.n:,} of {len(left):,} pictures; the same command goes on", file=sys.stderr)
            raise SystemExit(EXIT_INTERRUPTED) from None


def _finish(journal: "Journal", output_file: Path) -> tuple[int, int]:
    """Write the output file from the journal, unless it is the journal; count captioned and unreadable pictures."""
    journal.close()
    kind = output_file.suffix.lower()
    captioned = failed = 0
    kept: list[JournalRow] = []
    for row in journal.rows():
        failed += "error" in row
        captioned += "error" not in row
        if kind != ".jsonl":
            kept.append(row)
    if kind == ".json":
        atomic_write_json(
            output_file,
            [
                {"image": row["image"], "caption": text, "language": language_of(text)}
                for row in kept
                if "error" not in row
                for text in (row["caption"], *row.get("others", ()))
            ],
        )
        for row in kept:
            if "error" in row:
                print(f"left out: {row['image']}: {row['error']}", file=sys.stderr)
    elif kind == ".parquet":
        import pandas as pd

        new = output_file.with_name(f".{output_file.name}.{time.time_ns()}")
        try:
            pd.DataFrame(kept).to_parquet(new, index=False)
            with new.open("rb+") as file:
                os.fsync(file.fileno())
            new.replace(output_file)
        finally:
            new.unlink(missing_ok=True)
    if kind != ".jsonl":
        journal.remove()
    return captioned, failed
