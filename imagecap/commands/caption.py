"""`run.py caption`: any number of pictures in, a file of captions out; goes on where it was when interrupted."""

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from imagecap.config import Settings
from imagecap.data.identity import folder_digest
from imagecap.errors import EXIT_INTERRUPTED, ImageCapError
from imagecap.files import atomic_write_json
from imagecap.generate.inputs import Picture, pictures_of
from imagecap.generate.journal import Journal, JournalRow
from imagecap.languages import language_of
from imagecap.locks import exclusive

FORMATS = (".jsonl", ".parquet", ".json")


def caption_many(settings: Settings, model_path: Path, source: str, output_file: Path, batch_size: int) -> None:
    """Caption every picture of `source` (see `pictures_of`) into `output_file`.

    `.jsonl` and `.parquet` get a row per picture: `image`, `caption`, `score`, `tokens`, and `others` where there are
    more captions; a picture that cannot be read has `error` instead. `.json` becomes a captions.json to correct by
    hand and train on. Rows are on the disk after every batch; the same command goes on after an interruption, and
    captions what has come since where the output is `.jsonl`.

    Raises:
        ImageCapError: no pictures, no model, another kind of file, or an output of another job.
        SystemExit: interrupted (status 130); what is done is kept.
    """
    if output_file.suffix.lower() not in FORMATS:
        raise ImageCapError(f"--output_file {output_file} must end in {', '.join(FORMATS)}")
    lines = output_file.suffix.lower() == ".jsonl"
    if not lines and output_file.exists():
        raise ImageCapError(f"{output_file} is there already; choose another --output_file or remove it")
    from imagecap.model.builder import captioner_config

    captioner_config(model_path)  # a mistyped folder is told before anything is made
    pictures = pictures_of(source)
    journal_file = output_file if lines else output_file.with_name(f"{output_file.name}.part.jsonl")
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
            _caption(settings, model_path, left, journal, batch_size)
        counts = _finish(journal, output_file)
    print(f"{counts[0]:,} pictures captioned, {counts[1]:,} could not be read: {output_file}")


def _lock_of(file: Path) -> Path:
    """A file to lock, away from the user's own."""
    name = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"imagecap-{os.getuid()}-{name}.lock"


def _caption(settings: Settings, model_path: Path, left: Sequence[Picture], journal: Journal, batch_size: int) -> None:
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


def _finish(journal: Journal, output_file: Path) -> tuple[int, int]:
    """Write the file that was asked for, if it is not the journal itself; count captions and errors."""
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
