"""What a bulk job has still to do: pictures that are new, have changed since, or can be read now."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from imagecap.data.decoding import default_threads, map_pictures
from imagecap.data.identity import has_fingerprint
from imagecap.data.images import PictureError
from imagecap.data.prefetch import prefetch
from imagecap.errors import ImageCapError
from imagecap.generate.inputs import Picture
from imagecap.generate.journal import Journal, JournalRow

_CHUNK = 1000  # rows that one thread compares with their files


@dataclass(frozen=True)
class Remaining:
    """The pictures that a job has still to caption.

    Attributes:
        pictures: these pictures, in their order.
        done: number of pictures that had a row before.
        changed: number of those whose files have changed since.
        readable: number of those that could not be read, and can now.
        gone: number of rows of pictures that the job does not have any more.
    """

    pictures: list[Picture]
    done: int
    changed: int
    readable: int
    gone: int


def remaining(journal: Journal, pictures: Sequence[Picture], source: str, max_pixels: int) -> Remaining:
    """Compare the rows of a journal with the pictures of a job.

    A picture is recognised by the content of its file. The content is read only where the file system says that the
    file may have changed.

    Args:
        journal: the rows so far.
        pictures: all pictures of the job.
        source: what the job captions, such as the path of a folder.
        max_pixels: see `load_image`.

    Raises:
        ImageCapError: the rows are those of another source with other pictures.
    """
    paths = dict(pictures)
    is_other = journal.source is not None and journal.source != source
    changed: set[str] = set()
    failed: set[str] = set()
    gone = 0
    rows = journal.rows()
    chunks = iter(lambda: list(islice(rows, _CHUNK)), [])

    def compare(chunk: list[JournalRow]) -> list[tuple[str, str]]:
        states = ((row["image"], _state(row, paths.get(row["image"]))) for row in chunk)
        return [(name, state) for name, state in states if state]

    for found in prefetch(compare, chunks, threads=default_threads(), ahead=2 * default_threads()):
        for name, state in found:
            if is_other and state != "failed":
                raise ImageCapError(
                    f"{journal.path} was made by another job (--input was {journal.source}, now {source}, whose "
                    f"{name} is {state}); choose another --output_file, or remove it to start anew"
                )
            gone += state == "missing"
            if state == "another picture":
                changed.add(name)
            elif state == "failed":
                failed.add(name)
    again = readable([picture for picture in pictures if picture[0] in failed], max_pixels) if failed else []
    names = changed.union(name for name, _ in again)
    return Remaining(
        pictures=[picture for picture in pictures if picture[0] not in journal.done or picture[0] in names],
        done=len(journal.done) - gone,
        changed=len(changed),
        readable=len(again),
        gone=gone,
    )


def _state(row: JournalRow, path: Path | None) -> str:
    """What is to be said of the picture of a row: nothing if it is done, and its file is as it was."""
    if path is None:
        return "missing"
    try:
        if row.get("file") is not None and not has_fingerprint(path, row["file"]):
            return "another picture"
    except OSError:  # the caption is kept: the file may be there again another time
        return "unreadable"
    return "failed" if "error" in row else ""


def readable(pictures: Sequence[Picture], max_pixels: int) -> list[Picture]:
    """Those of the pictures that can be read."""
    results = map_pictures(lambda _: None, [path for _, path in pictures], max_pixels)
    return [picture for picture, result in zip(pictures, results, strict=True) if not isinstance(result, PictureError)]
