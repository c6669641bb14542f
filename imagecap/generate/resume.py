"""What a bulk job has still to do: pictures that are new, have changed since, or can be read now."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from imagecap.data.decoding import default_threads, map_pictures
from imagecap.data.identity import has_fingerprint
from imagecap.data.images import PictureError
from imagecap.data.locations import Location
from imagecap.data.prefetch import prefetch
from imagecap.errors import ImageCapError
from imagecap.generate.journal import Journal, JournalRow
from imagecap.generate.pictures import Picture, Pictures, Selected

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

    pictures: Sequence[Picture]
    done: int
    changed: int
    readable: int
    gone: int


def remaining(journal: Journal, pictures: Pictures, source: str, max_pixels: int) -> Remaining:
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
    is_other = journal.source is not None and journal.source != source
    changed: set[str] = set()
    failed: dict[str, int] = {}
    gone = 0
    rows = _numbered(journal.rows(), pictures.names)
    chunks = iter(lambda: list(islice(rows, _CHUNK)), [])

    def compare(chunk: list[tuple[JournalRow, int]]) -> list[tuple[str, int, str]]:
        states = (
            (row["image"], number, _state(row, None if number < 0 else pictures[number][1])) for row, number in chunk
        )
        return [(name, number, state) for name, number, state in states if state]

    for found in prefetch(compare, chunks, threads=default_threads(), ahead=2 * default_threads()):
        for name, number, state in found:
            if is_other and state != "failed":
                raise ImageCapError(
                    f"{journal.path} was made by another job (--input was {journal.source}, now {source}, whose "
                    f"{name} is {state}); choose another --output_file, or remove it to start anew"
                )
            gone += state == "missing"
            if state == "another picture":
                changed.add(name)
            elif state == "failed":
                failed[name] = number
    again = readable([pictures[number] for number in sorted(failed.values())], max_pixels) if failed else []
    names = changed.union(name for name, _ in again)
    left = (number for number, name in enumerate(pictures.names) if name not in journal.done or name in names)
    return Remaining(
        pictures=Selected(pictures, left),
        done=len(journal.done) - gone,
        changed=len(changed),
        readable=len(again),
        gone=gone,
    )


def _numbered(rows: Iterator[JournalRow], names: Sequence[str]) -> Iterator[tuple[JournalRow, int]]:
    """Yield each row with the number of its picture; -1 if there is none.

    Rows are mostly in the order of the pictures. A table of all names, which takes memory, is made where they are not.
    """
    numbers: dict[str, int] | None = None
    expected = 0
    for row in rows:
        number = expected
        if number >= len(names) or names[number] != row["image"]:
            numbers = numbers or {name: number for number, name in enumerate(names)}
            number = numbers.get(row["image"], -1)
        if number >= 0:
            expected = number + 1
        yield row, number


def _state(row: JournalRow, path: Location | None) -> str:
    """What is to be said of the picture of a row: nothing if it is done, and its file is as it was."""
    if path is None:
        return "missing"
    try:
        if row.get("file") is not None and not has_fingerprint(path, row["file"]):
            return "another picture"
    except (OSError, ImageCapError):  # the caption is kept: the file may be there again another time
        return "unreadable"
    return "failed" if "error" in row else ""


def readable(pictures: Sequence[Picture], max_pixels: int) -> list[Picture]:
    """Those of the pictures that can be read."""
    results = map_pictures(lambda _: None, [path for _, path in pictures], max_pixels)
    return [picture for picture, result in zip(pictures, results, strict=True) if not isinstance(result, PictureError)]
